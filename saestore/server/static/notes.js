// Writing about a feature: what was changed is sent, field by field, and the page says what holds then.
import { times } from "./page.js";

const by = (id) => document.getElementById(id);

const author = () => by("note-author").value.trim();
const fields = () => [...document.querySelectorAll("#notes-form [data-field]")];
const said = () => JSON.parse(by("notes-said").textContent);

const value = (input) => {
  const text = input.value.trim();
  if (input.dataset.kind === "tags") {
    const tags = [...new Set(text.split(",").map((each) => each.trim()).filter(Boolean))];
    return tags.length ? tags : null;
  }
  if (input.dataset.kind === "lines") {
    const lines = text.split("\n").map((each) => each.trim()).filter(Boolean);
    return lines.length ? lines : null;
  }
  return text || null;
};
const written = (input, found) => {
  if (found === undefined || found === null) return "";
  return Array.isArray(found) ? found.join(input.dataset.kind === "tags" ? ", " : "\n") : found;
};

const tell = (words, bad = false) => {
  by("notes-status").textContent = words;
  by("notes-status").classList.toggle("bad", bad);
};

const send = async (values) => {
  localStorage.setItem("author", author());
  const answer = await fetch(by("notes-form").dataset.to, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ author: author(), values }),
  });
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({ detail: `the server answered ${answer.status}` }));
    throw new Error([problem.detail, problem.hint].filter(Boolean).join(": "));
  }
  await answer.text(); // to its end: an answer that was not read counts as failed
  const page = await fetch(location.href, { cache: "no-cache", headers: { Accept: "text/html" } });
  const fresh = new DOMParser().parseFromString(await page.text(), "text/html");
  by("notes").replaceWith(fresh.getElementById("notes"));
  times(by("notes"));
  listen();
};

// The fields say what this author said last.
const fill = () => {
  const mine = said()[author()] ?? {};
  for (const input of fields()) input.value = written(input, mine[input.dataset.field]);
  const marked = mine.bookmark === true;
  by("bookmark").setAttribute("aria-pressed", String(marked));
  by("bookmark").textContent = marked ? "★ bookmarked" : "☆ bookmark";
};
const open = (yes) => {
  by("notes-form").hidden = !yes;
  by("edit").setAttribute("aria-expanded", String(yes));
  if (yes) (author() ? by("note-name") : by("note-author")).focus();
};

const listen = () => {
  if (!by("notes-form")) return;
  by("note-author").value = localStorage.getItem("author") ?? "";
  fill();
  by("note-author").addEventListener("change", fill);
  by("edit").addEventListener("click", () => open(by("notes-form").hidden));
  by("leave").addEventListener("click", () => { fill(); open(false); by("edit").focus(); });
  by("bookmark").addEventListener("click", async () => {
    if (!author()) {
      open(true);
      tell("say who you are first");
      return;
    }
    try {
      await send({ bookmark: by("bookmark").getAttribute("aria-pressed") === "true" ? null : true });
      by("bookmark").focus();
    } catch (error) {
      open(true);
      tell(error.message, true);
    }
  });
  by("notes-form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) by("notes-form").requestSubmit();
    if (event.key === "Escape") { open(false); by("edit").focus(); }
  });
  by("notes-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const before = said()[author()] ?? {};
    const changed = {};
    for (const input of fields()) {
      const [now, then] = [value(input), before[input.dataset.field] ?? null];
      if (JSON.stringify(now) !== JSON.stringify(then)) changed[input.dataset.field] = now;
    }
    if (!Object.keys(changed).length) {
      tell("nothing was changed");
      return;
    }
    tell("saving");
    try {
      await send(changed);
      by("edit").focus();
    } catch (error) {
      tell(error.message, true);
    }
  });
};
listen();
