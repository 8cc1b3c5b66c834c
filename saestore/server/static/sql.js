// The chart of an answer: which columns, and how; the address keeps the choice.
import { axis, counted, hue, plot, shown, ticks } from "./charts.js";

const by = (id) => document.getElementById(id);

by("question")?.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) by("question").requestSubmit();
});

const BINS = 40;
const NAMED = 60;
const state = new URL(location.href);
let drawn;

const numbers = (values) => values.map((each) => (typeof each === "number" && Number.isFinite(each) ? each : null));

// Equal bins of a column, in its logarithm if that is asked for.
const histogram = (values, log) => {
  const found = numbers(values).filter((v) => v !== null && (!log || v > 0)).map((v) => (log ? Math.log10(v) : v));
  if (!found.length) return [[], []];
  const [low, high] = found.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  const step = (high - low) / BINS || 1;
  const counts = new Array(BINS).fill(0);
  for (const v of found) counts[Math.min(BINS - 1, Math.floor((v - low) / step))] += 1;
  return [counts.map((_, n) => low + step * (n + 0.5)), counts];
};

const draw = ({ columns, values }) => {
  const kind = by("chart-kind").value;
  const [x, y] = [Number(by("chart-x").value), Number(by("chart-y").value)];
  const [logX, logY] = [by("chart-log-x").checked, by("chart-log-y").checked];
  const histogramOf = kind === "histogram";
  by("chart-over").hidden = histogramOf;
  const place = by("chart").querySelector(".plot");
  drawn?.end();
  const named = !histogramOf && x >= 0 && !columns[x].number;
  let xs, ys, names = null;
  if (histogramOf) [xs, ys] = histogram(values[y], logX);
  else {
    const across = x < 0 || named ? values[y].map((_, n) => n) : numbers(values[x]);
    const pairs = across.map((v, n) => [v, numbers([values[y][n]])[0], n])
      .filter(([a, b]) => a !== null && b !== null && (!logX || named || x < 0 || a > 0) && (!logY || b > 0));
    if (!named && x >= 0) pairs.sort((a, b) => a[0] - b[0]);
    if (named) { pairs.splice(NAMED); names = pairs.map(([, , n]) => String(values[x][n])); pairs.forEach((each, n) => { each[0] = n; }); }
    [xs, ys] = [pairs.map((p) => p[0]), pairs.map((p) => p[1])];
  }
  const title = histogramOf ? `rows by ${columns[y].name}` : `${columns[y].name} over ${x < 0 ? "rows" : columns[x].name}`;
  by("chart").querySelector("figcaption span").textContent = title;
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", `${title}: ${xs.length} ${kind === "line" ? "points on a line" : kind}`);
  const output = by("chart").querySelector("output");
  output.textContent = xs.length ? "" : "nothing to draw: no numbers, or none above 0";
  if (!xs.length) return;
  const bars = kind === "bars" || histogramOf;
  const pad = xs.length > 1 ? (xs.at(-1) - xs[0]) / (xs.length - 1) / 2 : 0.5;
  const power = histogramOf && logX;
  const from = bars && !(logX && !power) ? xs[0] - pad : xs[0];
  const to = bars && !(logX && !power) ? xs.at(-1) + pad : xs.at(-1);
  const label = (v) => (names ? names[v] ?? "" : shown(Number((power ? 10 ** v : v).toPrecision(5))));
  const options = {
    height: 280,
    legend: { show: false },
    padding: [10, 14, 0, 0],
    cursor: { drag: { x: true, y: false } },
    scales: {
      x: { time: false, distr: logX && !power && !named && x >= 0 ? 3 : 1, range: (_, low, high) => (low === high ? [low - 1, high + 1] : low === xs[0] && high === xs.at(-1) ? [from, to] : [low, high]) },
      y: { distr: logY ? 3 : 1, range: bars && !logY ? (_, low, high) => [Math.min(0, low), Math.max(0, high) * 1.02 || 1] : undefined },
    },
    series: [{}, {
      stroke: () => hue(0),
      fill: bars ? () => hue(0) : undefined,
      width: bars ? 0 : 1.5,
      paths: bars ? uPlot.paths.bars({ size: [0.8, 60], align: 0 }) : kind === "points" ? () => null : undefined,
      points: { show: kind === "points", size: 6, fill: () => hue(0), stroke: "transparent" },
    }],
    axes: [
      axis({ space: names ? 70 : 60, size: 26, incrs: names ? [1, 2, 5, 10, 20] : undefined, values: (_, v) => (names ? v.map((each) => (Number.isInteger(each) ? label(each) : "")) : ticks(power ? v.map((each) => 10 ** each) : v)) }),
      axis({ space: 32, size: 58, values: (_, v) => (histogramOf ? counted(v) : ticks(v)) }),
    ],
    hooks: {
      setCursor: [(u) => {
        const n = u.cursor.idx;
        output.textContent = n === null || n === undefined || u.cursor.left < 0 ? "" : `${label(xs[n])}: ${shown(ys[n])}`;
      }],
    },
  };
  drawn = plot(place, options, [xs, ys]);
};

// What is too large for the page is asked for by itself, as a program would.
const whole = async ({ columns, values, ask }) => {
  if (values) return { columns, values };
  by("chart").hidden = false;
  by("chart").querySelector("output").textContent = "asking for all rows";
  const answer = await fetch(ask.url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(ask.body) });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.detail);
  return { columns, values: columns.map((_, n) => found.rows.map((row) => row[n])) };
};

const source = by("answer-data");
const begin = (data) => {
  const option = (n, words) => Object.assign(document.createElement("option"), { value: n, textContent: words });
  data.columns.forEach((column, n) => {
    by("chart-x").append(option(n, column.name));
    if (column.number) by("chart-y").append(option(n, column.name));
  });
  by("chart-x").prepend(option(-1, "rows, in order"));
  const first = data.columns.findIndex((column) => column.number);
  const measured = data.columns.findLastIndex((column) => column.number && !/(^|_)(id|feature|context|position|layer|stratum|rank)$/.test(column.name));
  const names = data.columns.map((column) => column.name);
  const chosen = (name, other) => {
    const given = names.indexOf(state.searchParams.get(name) ?? "");
    return String(given >= 0 ? given : other);
  };
  by("chart-y").value = chosen("y", measured < 0 ? first : measured);
  by("chart-x").value = chosen("x", Number(by("chart-y").value) === 0 ? -1 : 0);
  by("chart-kind").value = state.searchParams.get("chart") ?? (data.columns[0].number ? "points" : "bars");
  by("chart-log-x").checked = state.searchParams.get("log")?.includes("x") ?? false;
  by("chart-log-y").checked = state.searchParams.get("log")?.includes("y") ?? false;
  by("chart-form").hidden = by("chart").hidden = false;
  by("chart-form").addEventListener("change", () => {
    state.searchParams.set("chart", by("chart-kind").value);
    state.searchParams.set("y", names[by("chart-y").value]);
    const x = names[by("chart-x").value];
    if (x) state.searchParams.set("x", x);
    else state.searchParams.delete("x");
    const log = `${by("chart-log-x").checked ? "x" : ""}${by("chart-log-y").checked ? "y" : ""}`;
    if (log) state.searchParams.set("log", log);
    else state.searchParams.delete("log");
    history.replaceState(history.state, "", state);
    draw(data);
  });
  by("chart-form").addEventListener("submit", (event) => event.preventDefault());
  draw(data);
};
if (source) whole(JSON.parse(source.textContent)).then(begin, (error) => { by("chart").querySelector("output").textContent = error.message; });
