"""What a page of a task has in it, read from its HTML."""

from html.parser import HTMLParser

_VOID = {"meta", "link", "br", "img", "input"}
_OTHER = ("script", "style", "title")


class PageParts(HTMLParser):
    """The parts of a page.

    Attributes:
        texts: the characters of each `.text`, without markup.
        marks: (document, number of a mark) -> its characters.
        labels: (document, number) -> the label that is shown behind the mark.
        notes: (document, number) -> what is shown where the pointer is on it.
        ids, links: the ids, and the targets of links to them.
        tags: how often each element occurs.
        scripts: the content of each script.
        addresses: attributes that make a browser load something.
        handlers: attributes that run code.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts, self.scripts, self.handlers, self.addresses = [], [], [], []
        self.marks, self.labels, self.notes, self.tags = {}, {}, {}, {}
        self.ids, self.links, self.cells, self._open, self._document = [], [], [], [], ""
        self.feed(page)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags[tag] = self.tags.get(tag, 0) + 1
        classes = (values.get("class") or "").split()
        if tag == "section":
            self._document = values.get("data-d", "")
        if "text" in classes:
            self.texts.append("")
        if tag == "script":
            self.scripts.append("")
        if tag in ("td", "summary", "h1", "h2", "li", "figcaption"):
            self.cells.append("")
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        self.handlers += [name for name in values if name.startswith("on")]
        loads = [values[name] for name in ("src", "srcset", "action", "data") if name in values]
        loads += [values["href"]] if tag != "a" and "href" in values else []
        self.addresses += [one for one in loads if not one.startswith("data:")]
        key = None
        if tag == "mark" and "data-m" in values:
            key = (self._document, int(values["data-m"]))
            self.marks.setdefault(key, "")
            self.notes[key] = values["title"]
            if "data-l" in values:
                self.labels[key] = values["data-l"]
        if tag not in _VOID:
            self._open.append((tag, classes, key))

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self._open and self._open.pop()[0] == tag, tag

    def handle_data(self, data):
        if not self._open:
            return
        if self._open[-1][0] == "script":
            self.scripts[-1] += data
        if any("block" in classes for _, classes, _ in self._open):
            self.texts[-1] += data
        if any(tag in ("td", "summary", "h1", "h2", "li", "figcaption") for tag, *_ in self._open):
            self.cells[-1] += data
        for _, _, key in self._open:
            if key is not None:
                self.marks[key] += data
