// A token says which features fire on it.
const { on, at, features } = JSON.parse(document.getElementById("tokens")?.textContent ?? "{}");
const place = document.getElementById("at-token");
const tokens = [...document.querySelectorAll("[data-token]")];

const shown = (x) => (x === null ? "–" : String(Number(x.toPrecision(4))));
const choose = (token) => {
  for (const each of tokens) each.setAttribute("aria-pressed", String(each === token));
  const made = (kind, ...inside) => {
    const element = document.createElement(kind);
    element.append(...inside);
    return element;
  };
  const found = at[token.dataset.token];
  const code = Object.assign(made("code", token.textContent), { className: "token" });
  const cells = found.map(([feature, value]) => {
    const [largest, most] = features[feature];
    const share = largest ? Math.abs(value) / largest : null;
    const link = Object.assign(made("a", String(feature)), { href: `${on}/${feature}` });
    const [n, much] = [made("td", shown(value)), made("td", share === null ? "–" : `${(100 * share).toFixed(1)}%`)];
    n.className = much.className = "n";
    const elsewhere = most ? Object.assign(made("code", most), { className: "token" }) : "";
    return made("tr", made("td", link), made("td", elsewhere), n, much);
  });
  const head = made("tr", ...["feature", "fires on, elsewhere", "value", "of its largest"].map((words, n) => Object.assign(made("th", words), { scope: "col", className: n > 1 ? "n" : "" })));
  place.replaceChildren(made("p", "Features on ", code), made("table", made("thead", head), made("tbody", ...cells)));
  place.querySelector("table").className = "grid";
};
for (const each of tokens) {
  each.setAttribute("aria-pressed", "false");
  each.title = at[each.dataset.token].slice(0, 3).map(([feature, value]) => `${feature} ${shown(value)}`).join(", ");
  each.addEventListener("click", () => choose(each));
}
addEventListener("keydown", (event) => {
  const n = tokens.indexOf(document.activeElement);
  if (n < 0 || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
  const next = tokens[n + (event.key === "ArrowRight" ? 1 : -1)];
  if (!next) return;
  event.preventDefault();
  next.focus();
  choose(next);
});
