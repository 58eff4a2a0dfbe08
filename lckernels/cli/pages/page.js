"use strict";
// Hover shows what belongs together; buttons and the keys n and p go to the next and the previous highlight; a click
// on a curve goes to that place in the text. Without this script the page has everything, with links.
for (const part of document.querySelectorAll(".doc")) {
  const id = part.dataset.d;
  const piecesOf = (n) => part.querySelectorAll(`mark[data-m="${n}"]`);
  const turn = (n, on) => {
    for (const piece of piecesOf(n)) piece.classList.toggle("on", on);
    document.getElementById(`r${id}-${n}`)?.classList.toggle("on", on);
  };
  const numberOf = (target) => {
    const found = target.closest("mark[data-m], tr[id]");
    return found === null ? null : found.dataset.m ?? found.id.split("-")[1];
  };
  part.addEventListener("mouseover", (event) => { const n = numberOf(event.target); if (n !== null) turn(n, true); });
  part.addEventListener("mouseout", (event) => { const n = numberOf(event.target); if (n !== null) turn(n, false); });

  const firsts = [...part.querySelectorAll("mark[id]")];
  let at = -1;
  const go = (step) => {
    if (!firsts.length) return;
    if (at >= 0) turn(firsts[at].dataset.m, false);
    at = at < 0 && step < 0 ? firsts.length - 1 : (at + step + firsts.length) % firsts.length;
    firsts[at].scrollIntoView({ block: "center" });
    turn(firsts[at].dataset.m, true);
  };
  for (const button of part.querySelectorAll("button[data-step]")) {
    button.hidden = false;
    button.addEventListener("click", () => go(Number(button.dataset.step)));
  }
  if (part === document.querySelector(".doc")) document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n") go(1);
    if (event.key === "p") go(-1);
  });

  const blocks = [...part.querySelectorAll(".block")];
  for (const figure of part.querySelectorAll(".curve")) {
    const svg = figure.querySelector("svg");
    const readout = figure.querySelector("output");
    const positions = svg.dataset.x.split(" ").map(Number);
    const values = svg.dataset.y.split(" ");
    const length = Number(svg.dataset.length);
    const character = (event) => {
      const box = svg.getBoundingClientRect();
      return (event.clientX - box.left) / box.width * length;
    };
    svg.addEventListener("mousemove", (event) => {
      const place = character(event);
      const next = positions.findIndex((position) => position > place);
      const value = values[Math.max(0, (next < 0 ? positions.length : next) - 1)];
      readout.textContent = `${(100 * place / length).toFixed(1)} % of the text: ${value}`;
    });
    svg.addEventListener("click", (event) => {
      const place = character(event);
      const after = blocks.findIndex((block) => Number(block.dataset.at) > place);
      const block = blocks[Math.max(0, (after < 0 ? blocks.length : after) - 1)];
      if (block === undefined) return;
      const later = [...block.querySelectorAll("mark[id]")].find((mark) => Number(mark.dataset.at) >= place);
      (later ?? block).scrollIntoView({ block: "center" });
    });
  }
}
