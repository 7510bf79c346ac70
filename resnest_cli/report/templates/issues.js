"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  if (!byId("controls")) return;
  const sections = [...document.querySelectorAll("section.kind")].map((node) => ({
    node,
    kind: node.dataset.kind,
    cards: [...node.querySelectorAll(".card")].map((card) => ({
      node: card,
      box: card.querySelector(".pick input"),
      text: card.dataset.text.toLowerCase(),
      labels: JSON.parse(card.dataset.classes),
      side: card.dataset.side,
    })),
  }));
  const cards = sections.flatMap((section) => section.cards);
  const value = (id) => byId(id)?.value ?? "";

  const list = () => {
    const rows = cards.filter((card) => card.box?.checked).map((card) => card.box.dataset.row);
    for (const card of cards) card.node.classList.toggle("checked", Boolean(card.box?.checked));
    byId("checked").textContent = rows.length;
    byId("lines").value = rows.length ? [byId("lines").dataset.header, ...rows, ""].join("\n") : "";
    byId("copied").textContent = "";
  };
  const filter = () => {
    const words = value("search").toLowerCase().split(/\s+/).filter(Boolean);
    const [kind, label, side] = [value("kind"), value("class"), value("side")];
    const only = byId("only").checked;
    let shown = 0;
    for (const section of sections) {
      let here = 0;
      for (const card of section.cards) {
        const fits =
          (!kind || section.kind === kind) &&
          (!label || card.labels.includes(label)) &&
          (!side || card.side === side) &&
          (!only || card.box?.checked) &&
          words.every((word) => card.text.includes(word));
        card.node.hidden = !fits;
        here += fits;
      }
      section.node.hidden = here === 0;
      shown += here;
    }
    byId("count").textContent = `${shown} of ${cards.length} issues on this page`;
  };
  const mark = (checked) => {
    for (const card of cards) if (card.box && !card.node.hidden) card.box.checked = checked;
    list();
  };
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("controls").addEventListener("input", filter);
  byId("issues").addEventListener("change", list);
  byId("all").addEventListener("click", () => mark(true));
  byId("none").addEventListener("click", () => mark(false));
  byId("copy").addEventListener("click", () => {
    const lines = byId("lines");
    lines.closest("details").open = true;
    lines.focus();
    lines.select();
    // navigator.clipboard is not there for a page that was opened as a file.
    byId("copied").textContent = document.execCommand("copy") ? "copied" : "press Ctrl-C";
  });
  list();
  filter();
})();
