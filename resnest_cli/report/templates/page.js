"use strict";
(() => {
  const list = document.getElementById("cards");
  const byId = (id) => document.getElementById(id);
  const text = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  if (list) {
    const cards = [...list.children].map((node) => ({
      node,
      look: Number(node.dataset.look),
      place: Number(node.dataset.place),
      name: node.dataset.text.toLowerCase(),
      label: node.dataset.class,
      labels: node.dataset.class.split("\n"),
      state: node.dataset.state,
      p: node.dataset.p === "" ? null : 100 * Number(node.dataset.p),
    }));
    const number = (count) => count.toLocaleString("en");
    const AT_ONCE = 60;
    let limit = AT_ONCE; // cards that are laid out: all would make a page of a kilometre
    const orders = {
      look: (a, b) => a.look - b.look,
      place: (a, b) => a.place - b.place,
      up: (a, b) => (a.p ?? 101) - (b.p ?? 101) || a.place - b.place,
      down: (a, b) => (b.p ?? -1) - (a.p ?? -1) || a.place - b.place,
      class: (a, b) => text.compare(a.label, b.label) || a.place - b.place,
    };
    const filter = () => {
      const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
      const label = byId("class").value;
      const state = byId("state").value;
      const low = Number(byId("low").value || 0);
      const high = byId("high").value === "" ? 100 : Number(byId("high").value);
      const whole = low <= 0 && high >= 100;
      let shown = 0;
      for (const card of cards) {
        const fits =
          words.every((word) => card.name.includes(word)) &&
          (!label || card.labels.includes(label)) &&
          (!state || card.state === state) &&
          (whole || (card.p !== null && card.p >= low && card.p <= high));
        shown += fits;
        card.node.hidden = !fits || shown > limit;
      }
      const first = shown > limit ? `, the first ${limit} shown` : "";
      const noun = cards.length === 1 ? "photo" : "photos";
      byId("count").textContent = `${number(shown)} of ${number(cards.length)} ${noun}${first}`;
      byId("more").hidden = shown <= limit;
    };
    const restart = () => {
      limit = AT_ONCE;
      filter();
    };
    const more = () => {
      limit += AT_ONCE;
      filter();
    };
    const sort = () => {
      cards.sort(orders[byId("sort").value]);
      list.append(...cards.map((card) => card.node));
      restart();
    };
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    byId("controls").addEventListener("input", restart);
    byId("more").addEventListener("click", more);
    new IntersectionObserver((seen) => seen[0].isIntersecting && more()).observe(byId("more"));
    byId("sort").addEventListener("change", sort);
    list.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      const visible = [...list.children].filter((node) => !node.hidden);
      const at = visible.indexOf(document.activeElement);
      const next = visible[at + step];
      if (at >= 0 && next) {
        event.preventDefault();
        next.focus();
      }
    });
    filter();
  }

  const zoomed = byId("zoomed");
  for (const button of document.querySelectorAll("button.zoom")) {
    button.addEventListener("click", () => {
      const { src, alt } = button.querySelector("img");
      Object.assign(zoomed.querySelector("img"), { src, alt });
      zoomed.showModal();
    });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const number = head.classList.contains("number");
        const value = (row) => row.cells[column].textContent;
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => {
          if (!number) return (up ? 1 : -1) * text.compare(value(a), value(b));
          const [one, two] = [a, b].map((row) => Number.parseFloat(value(row).replace(/,/g, "")));
          if (Number.isNaN(one) || Number.isNaN(two)) return Number.isNaN(one) - Number.isNaN(two);
          return (up ? 1 : -1) * (one - two);
        });
        table.tBodies[0].append(...rows);
      });
    });
  }
})();
