// The list of features as one table to scroll, however long: lines come from the server, drawn, as they
// are looked at. Without this script the same address shows a page of them, with links to the next.
const ROW = 32;
const BESIDE = 12;
const KEPT = 120;

const by = (id) => document.getElementById(id);
let scroll;

const start = () => {
  const list = by("list");
  const [sheet, body] = [by("sheet"), by("lines")];
  const total = Number(list.dataset.total);
  const url = list.dataset.rows;
  const [size, begin] = [Number(list.dataset.chunk), Number(list.dataset.first)];
  const chunks = new Map();
  const width = sheet.querySelectorAll("thead th").length;
  const gap = () => {
    const row = document.createElement("tr");
    row.className = "gap";
    row.setAttribute("aria-hidden", "true");
    row.append(Object.assign(document.createElement("td"), { colSpan: width }));
    return row;
  };
  const [above, below] = [gap(), gap()];
  const tall = (row, lines) => { row.firstChild.style.height = `${lines * ROW}px`; row.hidden = lines === 0; };
  let drawn = "";
  let asked = 0;

  const rows = async (chunk) => {
    if (!chunks.has(chunk)) {
      const end = `offset=${chunk * size}&limit=${size}&rows`;
      chunks.set(chunk, fetch(`${url}${url.includes("?") ? "&" : "?"}${end}`).then(async (answer) => {
        if (!answer.ok) throw new Error(`${answer.status}`);
        const table = document.createElement("table");
        table.innerHTML = await answer.text();
        return [...table.rows];
      }));
      chunks.get(chunk).catch(() => chunks.delete(chunk));
      if (chunks.size > KEPT) chunks.delete(chunks.keys().next().value);
    }
    return chunks.get(chunk);
  };

  const draw = async () => {
    const head = sheet.querySelector("thead").offsetHeight;
    const first = Math.max(0, Math.floor(sheet.scrollTop / ROW) - BESIDE);
    const last = Math.min(total, Math.ceil((sheet.scrollTop + sheet.clientHeight - head) / ROW) + BESIDE);
    const [from, to] = [Math.floor(first / size), Math.floor(Math.max(last - 1, 0) / size)];
    const name = `${from}-${to}`;
    const [top, end] = [Math.ceil(sheet.scrollTop / ROW - 0.1) + 1, Math.floor((sheet.scrollTop + sheet.clientHeight - head) / ROW + 0.1)];
    by("turn").querySelector("span").textContent = total ? `${top.toLocaleString("en")} to ${Math.min(total, end).toLocaleString("en")}` : "none";
    if (name === drawn) return;
    const mine = ++asked;
    let found;
    try {
      found = await Promise.all(Array.from({ length: to - from + 1 }, (_, n) => rows(from + n)));
    } catch {
      by("found").textContent = "the server does not answer: reload the page";
      return;
    }
    if (mine !== asked) return; // scrolled on meanwhile
    const lines = found.flat();
    const focus = body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    tall(above, from * size);
    tall(below, Math.max(0, total - from * size - lines.length));
    body.replaceChildren(above, ...lines, below);
    drawn = name;
    if (focus) body.querySelector(`a[href="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
  };

  // The address says where the list is, so that it is there again after a way back.
  let later;
  const place = () => {
    clearTimeout(later);
    later = setTimeout(() => {
      const here = new URL(location.href);
      const top = Math.round(sheet.scrollTop / ROW);
      if (top) here.searchParams.set("offset", top);
      else here.searchParams.delete("offset");
      history.replaceState(history.state, "", here);
    }, 250);
  };

  by("turn").querySelectorAll("a").forEach((each) => each.remove());
  // what the server drew is the first of it: a whole chunk is not asked for again
  const given = [...body.rows];
  if (begin % size === 0 && given.length === Math.min(size, total - begin)) {
    chunks.set(begin / size, given);
    drawn = `${begin / size}-${begin / size}`;
  }
  tall(above, begin);
  tall(below, Math.max(0, total - begin - given.length));
  body.prepend(above);
  body.append(below);
  if (begin) sheet.scrollTop = begin * ROW;
  if (scroll) scroll.abort();
  scroll = new AbortController();
  let waiting = false;
  sheet.addEventListener("scroll", () => {
    place();
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }, { signal: scroll.signal, passive: true });
  requestAnimationFrame(draw); // to measure the sheet before would lay the page out twice
};

// Words are searched while they are written: what the server draws then takes the place of the list.
const SWAPPED = ["sheet", "chips", "turn"];
const go = async (url, { keep = false } = {}) => {
  const answer = await fetch(url, { headers: { Accept: "text/html" } });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (!page.getElementById("list")) {
    location.assign(url);
    return;
  }
  for (const name of ["rows", "total", "first", "chunk"]) by("list").dataset[name] = page.getElementById("list").dataset[name];
  for (const id of SWAPPED) by(id).replaceWith(page.getElementById(id));
  // the form stays while someone writes in it
  if (keep) by("found").replaceWith(page.getElementById("found"));
  else by("list").querySelector("form").replaceWith(page.querySelector("#list form"));
  history.replaceState(history.state, "", url);
  if (!keep) listen();
  start();
};

let typing;
const listen = () => {
  const form = by("list").querySelector("form");
  const url = () => {
    const said = new URLSearchParams([...new FormData(form)].filter(([name, value]) => value && !["condition", "op", "bound"].includes(name)));
    return `${form.getAttribute("action")}${said.size ? `?${said}` : ""}`;
  };
  by("find").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => go(url(), { keep: true }), 120);
  });
  by("find").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    clearTimeout(typing);
    event.preventDefault();
    if (!form.elements.bound.value) go(url(), { keep: true }).then(() => by("lines").querySelector("a")?.focus());
    else form.requestSubmit();
  });
};

// j and k, and the arrows, go through the lines.
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
  const down = event.key === "j" || (event.key === "ArrowDown" && event.target.closest("#lines"));
  const up = event.key === "k" || (event.key === "ArrowUp" && event.target.closest("#lines"));
  if (!down && !up) return;
  const links = [...by("lines").querySelectorAll("tr:not(.gap) td:first-child a")];
  const box = by("sheet").getBoundingClientRect();
  const at = links.indexOf(document.activeElement);
  const first = links.findIndex((each) => each.getBoundingClientRect().top > box.top + ROW);
  const next = at < 0 ? first : at + (down ? 1 : -1);
  if (!links[next]) return;
  event.preventDefault();
  event.stopPropagation();
  links[next].focus({ preventScroll: true });
  const line = links[next].closest("tr").getBoundingClientRect();
  const head = by("sheet").querySelector("thead").offsetHeight;
  if (line.bottom > box.bottom) by("sheet").scrollTop += line.bottom - box.bottom + ROW;
  if (line.top < box.top + head) by("sheet").scrollTop -= box.top + head - line.top + ROW;
});

// A bar of the densities leads to the features in it.
const bars = by("densities")?.querySelector(".plot");
if (bars) {
  bars.classList.add("pick");
  bars.title = "Choose a bar for its features";
  bars.addEventListener("click", () => {
    if (!bars.bin) return;
    const [low, high, n, bins] = bars.bin;
    const here = new URL(location.href);
    const others = here.searchParams.getAll("filter").filter((each) => !/^\s*density\s*[<>]/.test(each));
    here.searchParams.delete("filter");
    here.searchParams.delete("offset");
    for (const each of [...others, `density>=${low}`, `density${n + 1 < bins ? "<" : "<="}${high}`]) here.searchParams.append("filter", each);
    go(here.pathname + here.search).then(() => by("list").scrollIntoView());
  });
}

listen();
start();
