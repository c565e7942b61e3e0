// Which tags stand together, as a map of squares. Arrow keys move over it; what a square says is also told in words.
import { h, number } from "./core.js";
import { percent } from "./words-ask.js";

const LABELS = { left: 128, top: 104, right: 46, bottom: 6 };
const SMALLEST = 12, LARGEST = 20; // pixels of a square

/** The order in which each tag follows the one that it stands together with most. */
export function alike(shares) {
  const left = new Set(shares.keys()), order = [0];
  left.delete(0);
  while (left.size) {
    const last = order.at(-1);
    let next = -1, most = -1;
    for (const one of left) if (shares[last][one] > most) { most = shares[last][one]; next = one; }
    order.push(next);
    left.delete(next);
  }
  return order;
}

/**
 * {node, set(names, counts, order), draw(), current}. counts[i][j]: pictures with both tags, counts[i][i] with the tag.
 * onCurrent(i, j) when another square is looked at, onOpen(i, j) when its pictures are asked for.
 */
export function heatMap({ onCurrent, onOpen }) {
  const node = h("canvas.ls-heat", { tabindex: "0", role: "img", id: "ls-heat", "aria-describedby": "ls-heat-told" });
  const pen = node.getContext("2d");
  let names = [], counts = [], order = [], shares = [], square = 20, row = 0, column = 1;

  const share = (i, j) => shares[i][j];
  const colour = (name) => getComputedStyle(document.body).getPropertyValue(`--ls-${name}`).trim();

  function draw() {
    const area = node.closest(".ls-heat-body");
    if (!names.length || !area || !area.clientWidth) return;
    const many = order.length, ratio = window.devicePixelRatio || 1;
    square = Math.max(SMALLEST, Math.min(LARGEST, Math.floor((area.clientWidth - LABELS.left - LABELS.right) / many)));
    const width = LABELS.left + many * square + LABELS.right, height = LABELS.top + many * square + LABELS.bottom;
    node.width = width * ratio;
    node.height = height * ratio;
    node.style.width = `${width}px`;
    node.style.height = `${height}px`;
    pen.scale(ratio, ratio);
    const [accent, empty, ink, strong, line] = ["accent", "raised", "muted", "text", "line-strong"].map(colour);
    pen.font = `${Math.min(12, square - 1)}px system-ui, sans-serif`;
    pen.textBaseline = "middle";
    const fitted = (text, room) => { let shown = text; while (shown.length > 3 && pen.measureText(shown).width > room) shown = `${shown.slice(0, -2).trimEnd()}…`; return shown; };
    order.forEach((i, y) => {
      order.forEach((j, x) => {
        const left = LABELS.left + x * square, top = LABELS.top + y * square;
        pen.globalAlpha = 1;
        pen.fillStyle = empty;
        pen.fillRect(left, top, square - 1, square - 1);
        if (i === j) { pen.fillStyle = line; pen.globalAlpha = 0.55; pen.fillRect(left, top, square - 1, square - 1); return; }
        if (!share(i, j)) return;
        pen.globalAlpha = 0.1 + 0.9 * share(i, j);
        pen.fillStyle = accent;
        pen.fillRect(left, top, square - 1, square - 1);
      });
    });
    pen.globalAlpha = 1;
    order.forEach((i, place) => {
      pen.fillStyle = place === row ? strong : ink;
      pen.textAlign = "right";
      pen.fillText(fitted(names[i], LABELS.left - 14), LABELS.left - 7, LABELS.top + (place + 0.5) * square);
      pen.save();
      pen.translate(LABELS.left + (place + 0.5) * square, LABELS.top - 7);
      pen.rotate(-Math.PI / 3);
      pen.textAlign = "left";
      pen.fillStyle = place === column ? strong : ink;
      pen.fillText(fitted(names[i], LABELS.top - 4), 0, 0);
      pen.restore();
    });
    pen.strokeStyle = strong;
    pen.lineWidth = 2;
    pen.strokeRect(LABELS.left + column * square - 1, LABELS.top + row * square - 1, square + 1, square + 1);
    node.dataset.square = String(square);
  }

  function move(y, x) {
    row = Math.max(0, Math.min(order.length - 1, y));
    column = Math.max(0, Math.min(order.length - 1, x));
    draw();
    onCurrent(order[row], order[column]);
  }
  const at = (event) => { const box = node.getBoundingClientRect(); return [Math.floor((event.clientY - box.top - LABELS.top) / square), Math.floor((event.clientX - box.left - LABELS.left) / square)]; };
  const onMap = ([y, x]) => y >= 0 && x >= 0 && y < order.length && x < order.length;
  node.addEventListener("pointermove", (event) => { const found = at(event); node.style.cursor = onMap(found) ? "pointer" : ""; if (onMap(found) && (found[0] !== row || found[1] !== column)) move(...found); });
  node.addEventListener("click", (event) => { const found = at(event); if (onMap(found)) { move(...found); onOpen(order[row], order[column]); } });
  node.addEventListener("keydown", (event) => {
    const step = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1], Home: [0, -column], End: [0, order.length] }[event.key];
    if (step && !event.ctrlKey && !event.altKey) { event.preventDefault(); move(row + step[0], column + step[1]); } else if (event.key === "Enter" || event.key === " ") { event.preventDefault(); onOpen(order[row], order[column]); }
  });
  new ResizeObserver(draw).observe(node);
  window.addEventListener("resize", draw);
  window.addEventListener("ls:theme", () => requestAnimationFrame(draw));

  return {
    node,
    draw,
    set(names_, counts_, sort) {
      names = names_;
      counts = counts_;
      shares = counts.map((line, i) => line.map((count, j) => (count ? count / (counts[i][i] + counts[j][j] - count) : 0)));
      order = sort === "alike" ? alike(shares) : [...names.keys()];
      row = Math.min(row, order.length - 1);
      column = Math.min(column, order.length - 1);
      node.setAttribute("aria-label", `Which of the ${number(names.length)} most frequent tags stand together. Arrow keys move from square to square, Enter shows the pictures; the list beside it says the same in words.`);
      draw();
      if (order.length) onCurrent(order[row], order[column]);
    },
    /** [i, j, pictures with both, their share of those with either], those together most first; once each. */
    pairs() {
      const found = [];
      counts.forEach((line, i) => line.forEach((count, j) => { if (i < j && count) found.push([i, j, count, share(i, j)]); }));
      return found.sort((a, b) => b[3] - a[3] || b[2] - a[2]);
    },
    words(i, j) {
      if (i === j) return `${names[i]}: on ${number(counts[i][i])} ${counts[i][i] === 1 ? "picture" : "pictures"}`;
      const both = counts[i][j];
      if (!both) return `${names[i]} and ${names[j]} never stand together`;
      return `${names[i]} and ${names[j]}: together on ${number(both)}, which is ${percent(both / counts[i][i])} of ${names[i]} and ${percent(both / counts[j][j])} of ${names[j]}`;
    },
  };
}
