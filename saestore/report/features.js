"use strict";
(() => {
  const ROWS = 50;
  const by = (id) => document.getElementById(id);
  const shown = (x) => {
    if (x === null) return "–";
    if (Number.isInteger(x)) return x.toLocaleString("en");
    const short = Number(x.toPrecision(4));
    return Math.abs(x) >= 1e-4 ? String(short) : short.toExponential();
  };
  const made = (kind, words, name) => {
    const element = document.createElement(kind);
    if (words !== undefined) element.textContent = words;
    if (name) element.className = name;
    return element;
  };

  // A chart says what the bar under the pointer counts.
  for (const chart of document.querySelectorAll(".chart svg[data-counts]")) {
    const { counts, lo, hi, unit, scale } = chart.dataset;
    const each = counts.split(" ").map(Number);
    const output = chart.closest("figure").querySelector("output");
    const before = output.textContent;
    const [from, to] = scale === "log" ? [Math.log(lo), Math.log(hi)] : [Number(lo), Number(hi)];
    const edge = (n) => {
      const x = from + ((to - from) * n) / each.length;
      return shown(Number((scale === "log" ? Math.exp(x) : x).toPrecision(4)));
    };
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const n = Math.min(Math.max(Math.floor(((event.clientX - box.left) / box.width) * each.length), 0), each.length - 1);
      output.textContent = `${edge(n)} to ${edge(n + 1)}: ${shown(each[n])} ${unit}`;
    });
    chart.addEventListener("pointerleave", () => { output.textContent = before; });
  }

  // On paper everything is open.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details.group:not([open])")];
    for (const each of closed) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of closed) each.open = false; });

  if (!by("data")) return;
  const { columns, sections } = JSON.parse(by("data").textContent);
  const here = new Set(sections);
  const body = by("features").tBodies[0];
  const heads = [...document.querySelectorAll("#features th button")];
  const rows = columns.feature.map((_, n) => n);
  const words = rows.map((n) => [columns.top_token[n] ?? "", ...columns.promotes[n], columns.explanation?.[n] ?? ""].join("\n").toLowerCase());
  let column = null, descending = false, first = 0, matching = rows;

  const order = (a, b) => {
    if (column === null) return a - b;
    const [x, y] = [columns[column][a], columns[column][b]];
    const [none, neither] = [x === null || x.length === 0, y === null || y.length === 0];
    if (none || neither) return none - neither || columns.feature[a] - columns.feature[b];
    const [one, other] = Array.isArray(x) ? [x.join(" "), y.join(" ")] : [x, y];
    const less = one < other ? -1 : one > other ? 1 : 0;
    return (descending ? -less : less) || columns.feature[a] - columns.feature[b];
  };
  const token = (text) => made("bdi", text, "token");
  const cell = (name, n) => {
    const x = columns[name][n];
    if (name === "feature") {
      const td = made("td", undefined, "n");
      const link = made(here.has(x) ? "a" : "span", String(x));
      if (here.has(x)) link.href = `#feature-${x}`;
      td.append(link);
      return td;
    }
    if (name === "top_token" || name === "promotes") {
      const td = made("td");
      for (const each of x === null ? [] : [x].flat()) td.append(token(each), " ");
      return td;
    }
    if (name === "explanation") return made("td", x ?? "", "said-of");
    const td = made("td", name === "top_token_share" && x !== null ? `${(100 * x).toFixed(1)}%` : shown(x), "n");
    if (x !== null) td.title = String(x);
    return td;
  };
  const draw = () => {
    body.replaceChildren(...matching.slice(first, first + ROWS).map((n) => {
      const row = made("tr");
      row.append(...Object.keys(columns).map((name) => cell(name, n)));
      return row;
    }));
    for (const each of heads) {
      const own = each.dataset.column === column;
      if (own) each.parentElement.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else each.parentElement.removeAttribute("aria-sort");
    }
    by("found").textContent = `${matching.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} features`;
    const last = Math.min(first + ROWS, matching.length);
    by("span").textContent = matching.length ? `${(first + 1).toLocaleString("en")} to ${last.toLocaleString("en")}` : "none";
    by("back").disabled = first === 0;
    by("on").disabled = last === matching.length;
  };
  const choose = () => {
    const sought = by("find").value.toLowerCase();
    const number = sought.trim();
    const silent = by("silent").checked;
    matching = rows.filter((n) => (silent ? !columns.n_firings[n] : true)
      && (!sought || String(columns.feature[n]) === number || words[n].includes(sought))).sort(order);
    first = 0;
    draw();
  };
  for (const each of heads) {
    each.addEventListener("click", () => {
      const name = each.dataset.column;
      const textual = name === "feature" || name === "top_token" || name === "promotes" || name === "explanation";
      descending = name === column ? !descending : !textual;
      column = name;
      choose();
    });
  }
  by("silent").parentElement.hidden = columns.n_firings.every((n) => n > 0);
  by("find").addEventListener("input", choose);
  by("silent").addEventListener("change", choose);
  document.querySelector(".list form").addEventListener("submit", (event) => event.preventDefault());
  by("back").addEventListener("click", () => { first = Math.max(0, first - ROWS); draw(); });
  by("on").addEventListener("click", () => { first += ROWS; draw(); });
  choose();
})();
