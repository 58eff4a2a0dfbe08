"""Every test of this folder has the mark `hf`."""


def pytest_itemcollected(item):
    item.add_marker("hf")
