// Charts by uPlot in the page's colours: bars of a histogram, curves over steps.
const HEIGHT = 130;
const live = new Set();

export const shown = (x) => {
  if (x === null || x === undefined) return "–";
  if (Number.isInteger(x)) return x.toLocaleString("en");
  const short = Number(x.toPrecision(4));
  return Math.abs(x) >= 1e-4 && Math.abs(x) < 1e9 ? String(short) : short.toExponential();
};

// A custom property is text: what colour it is only an element says.
const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);
const known = new Map();
const colour = (words) => {
  if (!known.has(words)) {
    probe.style.color = words;
    known.set(words, getComputedStyle(probe).color);
  }
  return known.get(words);
};
const COLOURS = ["var(--bar)", "var(--fire)", "var(--read)", "light-dark(#8856a7, #c39bd9)", "light-dark(#c51b7d, #f07ab8)", "var(--quiet)"];
export const hue = (n) => colour(COLOURS[n % COLOURS.length]);

const FONT = '11px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
export const axis = (more) => ({
  stroke: () => colour("var(--quiet)"),
  font: FONT,
  labelFont: FONT,
  labelSize: 16,
  grid: { stroke: () => colour("var(--line)"), width: 1 },
  ticks: { stroke: () => colour("var(--line)"), width: 1, size: 4 },
  ...more,
});

// One plot as wide as its place, redrawn when the place or the colours change.
export const plot = (place, options, data) => {
  const width = () => Math.max(place.clientWidth, 120);
  const made = new uPlot({ width: width(), height: HEIGHT, ...options }, data, place);
  const watch = new ResizeObserver(() => {
    if (made.width !== width()) made.setSize({ width: width(), height: made.height });
  });
  watch.observe(place);
  live.add(made);
  return { chart: made, end: () => { watch.disconnect(); live.delete(made); made.destroy(); place.replaceChildren(); } };
};
addEventListener("theme", () => { known.clear(); for (const each of live) each.redraw(false, true); });

const short = (v) => (Math.abs(v) >= 1e4 ? `${Number((v / 1e3).toPrecision(3))}k` : String(Number(v.toPrecision(3))));
export const counted = (values) => values.map((v) => (Number.isInteger(v) ? short(v) : ""));

/** What stands beside an axis: short, and small numbers as powers of ten. */
export const ticks = (values) => values.map((v) => {
  if (v === null) return "";
  const near = Number(v.toPrecision(3));
  return near !== 0 && Math.abs(near) < 1e-3 ? String(Number(near.toPrecision(2)).toExponential()).replace("e-", "e−") : shown(near);
});

const bars = (svg) => {
  const { counts, lo, hi, unit, scale } = svg.dataset;
  const each = counts.split(" ").map(Number);
  const log = scale === "log";
  const [from, to] = log ? [Math.log10(lo), Math.log10(hi)] : [Number(lo), Number(hi)];
  const step = (to - from) / each.length;
  const edge = (n) => {
    const x = from + step * n;
    return Number((log ? 10 ** x : x).toPrecision(4));
  };
  const figure = svg.closest("figure");
  const output = figure.querySelector("output");
  const before = output.textContent;
  const place = document.createElement("div");
  place.className = "plot";
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", svg.getAttribute("aria-label"));
  svg.after(place);
  svg.setAttribute("hidden", "");
  figure.querySelector(".ends").hidden = true;
  const options = {
    height: Number(figure.closest("[data-high]")?.dataset.high ?? 96),
    legend: { show: false },
    padding: [6, 8, 0, 0],
    cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
    scales: { x: { time: false, range: [from, to] }, y: { range: (_, __, most) => [0, most * 1.02 || 1] } },
    series: [{}, {
      fill: () => colour("var(--bar)"),
      width: 0,
      paths: uPlot.paths.bars({ size: [0.86, 100], align: 0 }),
      points: { show: false },
    }],
    axes: [
      axis({
        space: 46,
        size: 22,
        grid: { show: false },
        incrs: log ? (to - from > 2.5 ? [1, 2, 3, 5, 10] : [0.1, 0.2, 0.25, 0.5, 1]) : undefined,
        values: (_, found) => (log ? ticks(found.map((v) => Number((10 ** v).toPrecision(2)))) : found.map((v) => shown(Number(v.toPrecision(6))))),
      }),
      axis({ space: 28, size: 40, values: (_, found) => counted(found) }),
    ],
    hooks: {
      setCursor: [(u) => {
        const n = u.cursor.left < 0 ? null : Math.min(Math.max(Math.floor((u.posToVal(u.cursor.left, "x") - from) / step), 0), each.length - 1);
        output.textContent = n === null ? before : `${shown(edge(n))} to ${shown(edge(n + 1))}: ${shown(each[n])} ${unit}`;
        place.bin = n === null ? null : [edge(n), edge(n + 1), n, each.length];
      }],
    },
  };
  plot(place, options, [each.map((_, n) => from + step * (n + 0.5)), each]);
};

/** Put a chart in the place of every drawn histogram. */
export const histograms = (within) => {
  if (typeof uPlot === "undefined") return;
  for (const svg of within.querySelectorAll(".chart svg[data-counts]")) bars(svg);
};

const faint = (n, alpha) => colour(`color-mix(in srgb, ${COLOURS[n % COLOURS.length]} ${alpha}%, transparent)`);

// Shares of a whole lie on one another: from the most frequent below to what never fires on top.
const stacked = (lines) => {
  const sums = lines[0].map(() => 0);
  return lines.map((line) => line.map((v, n) => (sums[n] += v ?? 0)));
};

// Dictionaries by two numbers: those that no other one beats stand out.
const points = (place, { title, points: found, across, up, beside }) => {
  const [x, y] = [found.map((p) => p[0]), found.map((p) => p[1])];
  const some = (front) => found.map((p) => (p[3] === front ? p[1] : null));
  const dots = (n) => ({ stroke: () => hue(n), paths: () => null, points: { show: true, size: 8, fill: () => hue(n), stroke: "transparent" } });
  const output = place.closest("figure").querySelector("output");
  const log = x.every((v) => v > 0);
  const [low, high] = [Math.min(...x), Math.max(...x)];
  const options = {
    height: 240,
    legend: { show: false },
    padding: [10, 14, 0, 0],
    scales: { x: { time: false, distr: log ? 3 : 1, range: log ? [low / 1.3, high * 1.3] : undefined } },
    series: [{}, { label: up, ...dots(0) }, { label: "front", ...dots(1) }],
    axes: [
      axis({ label: across, space: 60, size: 26, values: (_, v) => ticks(v) }),
      axis({ label: up, space: 30, size: 52, values: (_, v) => ticks(v) }),
    ],
    hooks: {
      setCursor: [(u) => {
        const p = found[u.cursor.idx];
        output.textContent = p && u.cursor.left >= 0 ? `${p[2]}: ${across} ${shown(p[0])}, ${up} ${shown(p[1])}` : beside;
      }],
    },
  };
  output.textContent = beside;
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", `${title}: ${found.map((p) => p[2]).join(", ")}`);
  plot(place, options, [x, some(false), some(true)]);
};

const curves = (place) => {
  const said = JSON.parse(place.querySelector("script").textContent);
  if (said.points) {
    points(place, said);
    return;
  }
  const { title, x, curves: found, log, zero, bands, stacked: whole } = said;
  const names = Object.keys(found);
  const values = names.map((name) => (log ? found[name].map((v) => (v > 0 ? v : null)) : found[name]));
  const lines = whole ? stacked(values) : values;
  const edge = (n) => bands && n % 3 !== 1;
  const tone = (n) => (bands ? Math.floor(n / 3) : n);
  const share = (n) => 100 - (88 * n) / Math.max(names.length - 1, 1);
  const shownNames = names.map((name, n) => [name, n]).filter(([, n]) => !edge(n));
  const options = {
    height: whole ? 200 : 170,
    legend: { show: shownNames.length > 1, live: false, markers: { width: 0, fill: (_, n) => (whole ? faint(0, share(n - 1)) : hue(tone(n - 1))) } },
    padding: [8, 12, 0, 0],
    cursor: { drag: { x: true, y: false }, y: false, points: { show: !whole } },
    scales: {
      x: { time: false },
      y: { distr: log ? 3 : 1, range: log ? undefined : whole ? [0, 1] : zero ? (_, low, high) => [Math.min(0, low), Math.max(0, high) * 1.05 || 1] : undefined },
    },
    series: [{}, ...names.map((name, n) => ({
      label: name,
      stroke: () => (whole ? faint(0, share(n)) : edge(n) ? "transparent" : hue(tone(n))),
      fill: whole && n === 0 ? () => faint(0, share(0)) : undefined,
      width: whole || edge(n) ? 0 : 1.5,
      points: { show: !whole && !edge(n) && x.length < 40, size: 4 },
    }))],
    bands: whole
      ? names.slice(1).map((_, n) => ({ series: [n + 2, n + 1], fill: () => faint(0, share(n + 1)) }))
      : bands ? names.flatMap((_, n) => (n % 3 === 2 ? [{ series: [n + 1, n - 1], fill: () => faint(tone(n), 22) }] : [])) : undefined,
    axes: [
      axis({ space: 60, size: 24, values: (_, v) => counted(v) }),
      axis({ space: 30, size: 52, values: (_, v) => ticks(v) }),
    ],
    hooks: {
      init: [(u) => {
        // edges of a band are no curves of their own
        u.root.querySelectorAll(".u-series").forEach((row, n) => { if (edge(n)) row.remove(); });
      }],
      setCursor: [(u) => {
        const n = u.cursor.idx;
        const output = place.closest("figure").querySelector("output");
        const off = n === null || n === undefined || u.cursor.left < 0;
        const now = names.map((name) => shown(found[name][n]));
        const words = bands ? shownNames.map(([, k]) => `${now[k]} (${now[k - 1]} to ${now[k + 1]})`) : whole ? [`never fires: ${now.at(-1)}`] : now;
        output.textContent = off ? "" : `step ${shown(x[n])}: ${words.join(", ")}`;
      }],
    },
  };
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", `${title}: ${shownNames.map(([name]) => name).join(", ")} over ${said.of} steps`);
  plot(place, options, [x, ...lines]);
};

/** Draw curves where a page has them, those in closed details when they are opened. */
export const series = (within) => {
  if (typeof uPlot === "undefined") return;
  for (const place of within.querySelectorAll("[data-curves]")) {
    const folded = place.closest("details:not([open])");
    if (folded) folded.addEventListener("toggle", () => curves(place), { once: true });
    else curves(place);
  }
};
