// What every page does: keys, colours, charts in place of the drawn histograms.
import { histograms, series } from "./charts.js";

const by = (id) => document.getElementById(id);
const dialog = by("keys-dialog");

// A page declares its keys on what they press: data-key, and data-says for the list of them.
const pressed = (key) => [...document.querySelectorAll(`[data-key~="${CSS.escape(key)}"]`)].find((e) => !e.disabled && e.offsetParent !== null);
const writes = (element) => element.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(element.tagName);

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (writes(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (dialog.open) return;
  const found = pressed(event.key);
  if (!found) return;
  event.preventDefault();
  if (writes(found)) {
    found.focus();
    found.select?.();
  } else found.click();
});

const NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
by("keys").addEventListener("click", () => {
  const made = (kind, words) => Object.assign(document.createElement(kind), { textContent: words });
  const lines = [...document.querySelectorAll("[data-key]")].filter((e) => e.offsetParent !== null);
  by("keys-list").replaceChildren(...lines.flatMap((each) => {
    const term = document.createElement("dt");
    term.append(...each.dataset.key.split(" ").map((key) => made("kbd", NAMES[key] ?? key)));
    return [term, made("dd", each.dataset.says)];
  }));
  dialog.showModal();
});
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

// Colours: as the system is, light, dark.
const THEMES = ["", "light", "dark"];
const WORDS = { "": "as the system is", light: "light", dark: "dark" };
const say = () => {
  const now = document.documentElement.dataset.theme ?? "";
  by("theme").setAttribute("aria-label", `Colours: ${WORDS[now]}`);
  by("theme").title = by("theme").getAttribute("aria-label");
};
by("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % THEMES.length];
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  localStorage.setItem("theme", next);
  say();
  dispatchEvent(new Event("theme"));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("theme")));
say();

histograms(document);
series(document);

// Times as people here write them; the element has them exactly.
export const times = (within) => {
  for (const each of within.querySelectorAll("time[datetime]")) {
    const then = new Date(each.dateTime);
    if (!Number.isNaN(then.valueOf())) {
      each.title = each.dateTime;
      each.textContent = then.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
    }
  }
};
times(document);

// On paper everything is open.
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details.group:not([open])")];
  for (const each of closed) each.open = true;
});
addEventListener("afterprint", () => { for (const each of closed) each.open = false; });
