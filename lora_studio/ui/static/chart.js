// The loss over the steps on a canvas: every step faint, the smoothed curve strong, validation as dots. 20,000 points are drawn
// by columns of pixels, so that it never gets slow.
import { fill, h, number } from "./core.js";

const LEFT = 46, RIGHT = 12, TOP = 10, BOTTOM = 22;
const color = (name) => getComputedStyle(document.body).getPropertyValue(`--ls-${name}`).trim();

function ticks(low, high, count) {
  const span = high - low || 1;
  const rough = span / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((value) => value >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) found.push(value);
  return found;
}
const label = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 1 ? value.toFixed(2) : value.toFixed(3));

export function createChart() {
  const canvas = h("canvas", { role: "img", "aria-label": "Loss over the steps" });
  const tip = h("div.ls-tip", { hidden: true });
  const node = h("div.ls-chart", null, canvas, tip);
  let points = [], smooth = [], validation = [], total = 0, best = null, hover = -1;

  /** Exponential mean without the pull of the first value. */
  function average() {
    const weight = 2 / (Math.max(10, points.length / 20) + 1);
    let sum = 0, norm = 0;
    smooth = points.map(([step, loss]) => { sum = (1 - weight) * sum + weight * loss; norm = (1 - weight) * norm + weight; return [step, sum / norm]; });
  }

  function range() {
    const losses = points.map((point) => point[1]).sort((a, b) => a - b);
    const at = (share) => losses[Math.min(losses.length - 1, Math.floor(share * losses.length))];
    return widened(at(0.01), at(0.99));
  }
  function widened(low, high) {
    if (!(high > low)) { low -= 0.01; high += 0.01; }
    const room = 0.08 * (high - low);
    return [Math.max(0, low - room), high + room];
  }

  /** First and last step of the axis. */
  const span = () => [Math.min(points[0][0], validation.length ? validation[0][0] : Infinity), Math.max(points[points.length - 1][0], total || 0)];

  function draw() {
    const width = node.clientWidth, height = node.clientHeight;
    if (!width || !height) return;
    const scale = window.devicePixelRatio || 1;
    canvas.width = width * scale; canvas.height = height * scale;
    canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.font = "11px system-ui, sans-serif";
    pen.lineWidth = 1;
    if (points.length < 2) {
      pen.fillStyle = color("faint");
      pen.textAlign = "center";
      pen.fillText(points.length ? "The curve begins with the next steps" : "No steps yet", width / 2, height / 2);
      return;
    }
    const [low, high] = range();
    const right = validation.length ? 46 : RIGHT;
    const [first, last] = span();
    const x = (step) => LEFT + ((width - LEFT - right) * (step - first)) / Math.max(1, last - first);
    const y = (loss) => TOP + (height - TOP - BOTTOM) * (1 - (Math.min(high, Math.max(low, loss)) - low) / (high - low));
    pen.strokeStyle = color("line"); pen.fillStyle = color("faint");
    pen.textAlign = "right"; pen.textBaseline = "middle";
    for (const value of ticks(low, high, 4)) { pen.beginPath(); pen.moveTo(LEFT, y(value)); pen.lineTo(width - right, y(value)); pen.stroke(); pen.fillText(label(value), LEFT - 7, y(value)); }
    pen.textAlign = "center"; pen.textBaseline = "top";
    for (const value of ticks(first, last, 6)) pen.fillText(number(Math.round(value)), x(value), height - BOTTOM + 7);

    const columns = new Map(); // many points: the span of each column of pixels
    for (const [step, loss] of points) { const at = Math.round(x(step)); const span = columns.get(at) || [loss, loss]; columns.set(at, [Math.min(span[0], loss), Math.max(span[1], loss)]); }
    pen.strokeStyle = color("accent"); pen.globalAlpha = 0.35; pen.beginPath();
    let before = null;
    for (const [at, [least, most]] of columns) { if (before !== null) pen.lineTo(at, y(least)); else pen.moveTo(at, y(least)); pen.lineTo(at, y(most)); before = at; }
    pen.stroke();
    pen.globalAlpha = 1; pen.lineWidth = 2; pen.lineJoin = "round"; pen.beginPath();
    smooth.forEach(([step, loss], index) => (index ? pen.lineTo(x(step), y(loss)) : pen.moveTo(x(step), y(loss))));
    pen.stroke();
    if (validation.length) { // its own scale: at fixed noise it lies elsewhere than the loss of single steps
      const [least, most] = widened(Math.min(...validation.map((point) => point[1])), Math.max(...validation.map((point) => point[1])));
      const v = (loss) => TOP + (height - TOP - BOTTOM) * (1 - (loss - least) / (most - least));
      pen.strokeStyle = pen.fillStyle = color("warn"); pen.lineWidth = 1.5;
      pen.textAlign = "left"; pen.textBaseline = "middle";
      for (const value of ticks(least, most, 3)) pen.fillText(label(value), width - right + 7, v(value));
      pen.beginPath();
      validation.forEach(([step, loss], index) => (index ? pen.lineTo(x(step), v(loss)) : pen.moveTo(x(step), v(loss))));
      pen.stroke();
      for (const [step, loss] of validation) { pen.beginPath(); pen.arc(x(step), v(loss), 2.6, 0, 7); pen.fill(); }
      pen.textBaseline = "top";
    }
    if (best !== null && best >= first) {
      pen.strokeStyle = color("good"); pen.lineWidth = 1; pen.setLineDash([3, 3]); pen.beginPath(); pen.moveTo(x(best), TOP); pen.lineTo(x(best), height - BOTTOM); pen.stroke(); pen.setLineDash([]);
      pen.fillStyle = color("good"); pen.textAlign = x(best) > width - 60 ? "right" : "left"; pen.fillText("best", x(best) + (x(best) > width - 60 ? -4 : 4), TOP);
    }
    if (hover >= 0 && points[hover]) {
      const [step, loss, rate] = points[hover];
      pen.strokeStyle = color("line-strong"); pen.lineWidth = 1; pen.beginPath(); pen.moveTo(x(step), TOP); pen.lineTo(x(step), height - BOTTOM); pen.stroke();
      pen.fillStyle = color("accent"); pen.beginPath(); pen.arc(x(step), y(smooth[hover][1]), 3.5, 0, 7); pen.fill();
      fill(tip, h("b", null, `step ${number(step)}`), h("span", null, `loss ${loss.toFixed(4)}`), h("span", null, `smoothed ${smooth[hover][1].toFixed(4)}`), h("span", null, `rate ${rate.toPrecision(3)}`));
      tip.hidden = false;
      tip.style.left = `${Math.min(width - 130, x(step) + 10)}px`;
    } else { tip.hidden = true; }
  }

  canvas.addEventListener("pointermove", (event) => {
    if (points.length < 2) return;
    const [first, last] = span();
    const step = first + ((event.offsetX - LEFT) / Math.max(1, node.clientWidth - LEFT - (validation.length ? 46 : RIGHT))) * (last - first);
    let low = 0, high = points.length - 1;
    while (low < high) { const middle = (low + high) >> 1; if (points[middle][0] < step) low = middle + 1; else high = middle; }
    hover = low;
    draw();
  });
  canvas.addEventListener("pointerleave", () => { hover = -1; draw(); });
  new ResizeObserver(draw).observe(node);
  window.addEventListener("ls:theme", draw);
  return {
    node,
    draw,
    /** Replace everything. Points: [step, loss, rate]; validation: [step, loss]. */
    set(data) {
      ({ points, validation, total, best } = { points: data.points || [], validation: data.validation || [], total: data.total || 0, best: data.best ?? null });
      average();
      draw();
    },
    get smoothed() { return smooth.length ? smooth[smooth.length - 1][1] : null; },
  };
}
