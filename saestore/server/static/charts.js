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
const colour = (words) => {
  probe.style.color = words;
  return getComputedStyle(probe).color;
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
addEventListener("theme", () => { for (const each of live) each.redraw(false, true); });

const short = (v) => (Math.abs(v) >= 1e4 ? `${Number((v / 1e3).toPrecision(3))}k` : String(Number(v.toPrecision(3))));
export const counted = (values) => values.map((v) => (Number.isInteger(v) ? short(v) : ""));

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
        values: (_, found) => found.map((v) => (log ? shown(Number((10 ** v).toPrecision(2))) : shown(Number(v.toPrecision(6))))),
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

const curves = (place) => {
  const { title, x, curves: found, log } = JSON.parse(place.querySelector("script").textContent);
  const names = Object.keys(found);
  const options = {
    height: 170,
    legend: { show: names.length > 1, live: false },
    padding: [8, 12, 0, 0],
    cursor: { drag: { x: true, y: false }, y: false },
    scales: { x: { time: false }, y: { distr: log ? 3 : 1 } },
    series: [{}, ...names.map((name, n) => ({ label: name, stroke: () => hue(n), width: 1.5, points: { show: x.length < 40 } }))],
    axes: [
      axis({ space: 60, size: 24, values: (_, v) => counted(v) }),
      axis({ space: 30, size: 52, values: (_, v) => v.map((each) => (each === null ? "" : shown(Number(each.toPrecision(3))))) }),
    ],
    hooks: {
      setCursor: [(u) => {
        const n = u.cursor.idx;
        const output = place.closest("figure").querySelector("output");
        output.textContent = n === null || n === undefined || u.cursor.left < 0 ? "" : `step ${shown(x[n])}: ${names.map((name) => shown(found[name][n])).join(", ")}`;
      }],
    },
  };
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", `${title}: ${names.join(", ")} over ${x.length} steps`);
  plot(place, options, [x, ...names.map((name) => (log ? found[name].map((v) => (v > 0 ? v : null)) : found[name]))]);
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
