// A canvas with a point for each picture: zoom, move, rectangle and lasso. Draws; knows nothing of decisions' meaning.
import { h, thumb } from "./core.js";

export const COLOURS = ["#5b8def", "#e08a3c", "#3fa877", "#c85bb4", "#a8942a", "#3ea6bd", "#d9605a", "#8d78e0"];
const PAD = { x: 40, top: 70, bottom: 62 }, MOST = 60;
const PICTURES = 90; // so few points in sight are drawn as pictures
const OPACITY = { new: 0.85, keep: 1, maybe: 0.5, reject: 0.3 };
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** Whether (x, y) lies within the closed line of points (even-odd rule). */
function within(line, x, y) {
  let inside = false;
  for (let i = 0, j = line.length - 1; i < line.length; j = i, i += 1) {
    const [ax, ay] = line[i], [bx, by] = line[j];
    if ((ay > y) !== (by > y) && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

/**
 * {node, set(points), draw(), fit(), zoom(factor), move(x, y), tool}. points: [{image, x, y, cluster, apart}], x and y
 * from 0 to 1. options: selected() -> Set of ids, onSelect(ids, add), onHover(point or null, x, y), onOpen(point)
 */
export function mapCanvas({ selected, onSelect, onHover, onOpen }) {
  const node = h("canvas.ls-map-canvas", { tabindex: "0", role: "application", "aria-label": "Map of the pictures. The list of groups beside it does the same." });
  const pen = node.getContext("2d");
  const kept = new Map(), stamps = new Map(); // pictures by address; marks
  const view = { scale: 1, x: 0, y: 0 };
  let points = [], width = 0, height = 0, asked = false, dragged = null, hovered = null;
  const canvas = { tool: "move" };

  const left = (point) => (PAD.x + point.x * (width - 2 * PAD.x)) * view.scale + view.x;
  const top = (point) => (PAD.top + point.y * (height - PAD.top - PAD.bottom)) * view.scale + view.y;
  const inSight = (x, y, edge = 30) => x > -edge && y > -edge && x < width + edge && y < height + edge;
  const radius = () => Number(clamp((points.length > 3000 ? 2 : points.length > 400 ? 3 : 5) * Math.sqrt(Math.sqrt(view.scale)), 1.5, 9).toFixed(1));

  // ---- drawing --------------------------------------------------------------------------------------------------------

  const later = () => { if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; paint(); }); } };

  function mark(pen, decision, x, y, r) {
    pen.beginPath();
    if (decision === "keep") pen.rect(x - r, y - r, 2 * r, 2 * r);
    else if (decision === "maybe") { pen.moveTo(x, y - 1.2 * r); pen.lineTo(x + 1.15 * r, y + 0.8 * r); pen.lineTo(x - 1.15 * r, y + 0.8 * r); pen.closePath(); }
    else if (decision === "reject") { pen.moveTo(x - r, y - r); pen.lineTo(x + r, y + r); pen.moveTo(x + r, y - r); pen.lineTo(x - r, y + r); }
    else pen.arc(x, y, r, 0, 7);
    if (decision === "reject") pen.stroke(); else pen.fill();
  }

  /** The mark of a colour and a decision, drawn once and then stamped: many times as fast as 10,000 paths. */
  function stamp(cluster, decision, r, ratio) {
    const key = `${cluster % COLOURS.length} ${decision} ${r} ${ratio}`;
    if (stamps.size > 256) stamps.clear();
    if (!stamps.has(key)) {
      const side = Math.ceil(2 * (1.3 * r + 1) * ratio), small = h("canvas", { width: side, height: side }), ink = small.getContext("2d");
      ink.scale(ratio, ratio);
      ink.globalAlpha = decision === "reject" ? 0.55 : OPACITY[decision];
      ink.fillStyle = ink.strokeStyle = COLOURS[cluster % COLOURS.length];
      ink.lineWidth = 1.5;
      mark(ink, decision, side / ratio / 2, side / ratio / 2, r);
      stamps.set(key, small);
    }
    return stamps.get(key);
  }
  function marks(shown, r, ratio) {
    for (const { point, x, y } of shown) {
      const drawn = stamp(point.cluster, point.image.decision, r, ratio), side = drawn.width / ratio;
      pen.drawImage(drawn, x - side / 2, y - side / 2, side, side);
    }
  }

  function picture(address) {
    let found = kept.get(address);
    if (!found) { found = new Image(); found.onload = later; found.src = address; kept.set(address, found); }
    return found.complete && found.naturalWidth ? found : null;
  }
  function pictures(shown, size) {
    for (const { point, x, y } of shown) {
      const drawn = picture(thumb(point.image));
      pen.globalAlpha = OPACITY[point.image.decision];
      const long = drawn ? size / Math.max(drawn.naturalWidth, drawn.naturalHeight) : 1;
      const w = drawn ? drawn.naturalWidth * long : size, t = drawn ? drawn.naturalHeight * long : size;
      if (drawn) pen.drawImage(drawn, x - w / 2, y - t / 2, w, t);
      pen.globalAlpha = Math.max(0.6, OPACITY[point.image.decision]);
      pen.strokeStyle = COLOURS[point.cluster % COLOURS.length];
      pen.lineWidth = 2;
      pen.strokeRect(x - w / 2, y - t / 2, w, t);
      if (point.image.decision !== "new") { // its mark at the corner
        pen.fillStyle = pen.strokeStyle;
        mark(pen, point.image.decision, x + w / 2 - 2, y - t / 2 + 2, 5);
      }
    }
    pen.globalAlpha = 1;
  }

  function rings(shown, r, test, colour, line, square = false) {
    pen.strokeStyle = colour;
    pen.lineWidth = line;
    pen.beginPath();
    for (const { point, x, y } of shown) {
      if (!test(point)) continue;
      if (square) pen.rect(x - r, y - r, 2 * r, 2 * r); else { pen.moveTo(x + r, y); pen.arc(x, y, r, 0, 7); }
    }
    pen.stroke();
  }

  function paint() {
    const area = node.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    if (!area.width || !area.height) return;
    if (width !== area.width || height !== area.height || node.width !== Math.round(area.width * ratio)) {
      width = area.width; height = area.height;
      node.width = Math.round(width * ratio); node.height = Math.round(height * ratio);
    }
    const style = getComputedStyle(node), chosen = selected();
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const shown = points.map((point) => ({ point, x: left(point), y: top(point) })).filter(({ x, y }) => inSight(x, y));
    const asPictures = shown.length <= PICTURES, size = clamp(38 * Math.sqrt(view.scale), 38, 110);
    const r = asPictures ? size * 0.72 : radius() + 3.5;
    if (asPictures) pictures(shown, size); else marks(shown, radius(), ratio);
    rings(shown, r, (point) => point.apart, style.getPropertyValue("--ls-warn"), 1.5);
    const frame = asPictures ? size / 2 + 4 : r;
    rings(shown, frame, (point) => chosen.has(point.image.id), style.getPropertyValue("--ls-accent"), asPictures ? 3 : 2.5, asPictures);
    rings(shown, frame, (point) => point === hovered, style.getPropertyValue("--ls-text"), 2, asPictures);
    if (dragged && dragged.line) {
      pen.beginPath();
      dragged.line.forEach(([x, y], place) => (place ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.closePath();
      pen.globalAlpha = 0.15; pen.fillStyle = style.getPropertyValue("--ls-accent"); pen.fill();
      pen.globalAlpha = 1; pen.lineWidth = 1.5; pen.strokeStyle = style.getPropertyValue("--ls-accent"); pen.stroke();
    }
    Object.assign(node.dataset, { points: points.length, drawn: shown.length, scale: view.scale.toFixed(2), selected: chosen.size, pictures: asPictures });
  }

  // ---- mouse ----------------------------------------------------------------------------------------------------------

  function bound() {
    view.x = clamp(view.x, -(view.scale - 1) * width - width / 2, width / 2);
    view.y = clamp(view.y, -(view.scale - 1) * height - height / 2, height / 2);
    later();
  }
  /** Zoom by a factor, keeping what lies at (x, y). */
  function zoom(factor, x = width / 2, y = height / 2) {
    const scale = clamp(view.scale * factor, 1, MOST), real = scale / view.scale;
    Object.assign(view, { scale, x: x - (x - view.x) * real, y: y - (y - view.y) * real });
    if (scale === 1) Object.assign(view, { x: 0, y: 0 });
    bound();
  }
  const place = (event) => { const area = node.getBoundingClientRect(); return [event.clientX - area.left, event.clientY - area.top]; };

  /** The point nearest to (x, y), if it is near; what is drawn last wins. */
  function at(x, y) {
    const reach = Number(node.dataset.drawn) <= PICTURES ? clamp(38 * Math.sqrt(view.scale), 38, 110) / 2 : radius() + 5;
    let best = null, least = reach * reach;
    for (const point of points) {
      const dx = left(point) - x, dy = top(point) - y, apart = dx * dx + dy * dy;
      if (apart <= least) { least = apart; best = point; }
    }
    return best;
  }

  function hover(event) {
    const [x, y] = place(event), found = at(x, y);
    if (found !== hovered) { hovered = found; later(); }
    onHover(found, x, y);
  }

  node.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 300), ...place(event)); hover(event); }, { passive: false });
  node.addEventListener("pointerleave", () => { hovered = null; onHover(null); later(); });
  node.addEventListener("dblclick", (event) => { const found = at(...place(event)); if (found) onOpen(found); });
  node.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    const tool = event.button === 1 ? "move" : event.shiftKey && canvas.tool === "move" ? "rectangle" : canvas.tool;
    node.setPointerCapture(event.pointerId);
    dragged = { tool, start: place(event), view: { ...view }, moved: false, line: null };
    onHover(null);
  });
  node.addEventListener("pointermove", (event) => {
    if (!dragged) { hover(event); return; }
    const [x, y] = place(event), [fromX, fromY] = dragged.start;
    if (Math.hypot(x - fromX, y - fromY) > 4) dragged.moved = true;
    if (!dragged.moved) return;
    if (dragged.tool === "move") { view.x = dragged.view.x + x - fromX; view.y = dragged.view.y + y - fromY; bound(); return; }
    if (dragged.tool === "rectangle") dragged.line = [[fromX, fromY], [x, fromY], [x, y], [fromX, y]];
    else (dragged.line = dragged.line || [dragged.start]).push([x, y]);
    later();
  });
  node.addEventListener("pointerup", (event) => {
    if (!dragged) return;
    const { line, moved } = dragged, add = event.shiftKey || event.ctrlKey || event.metaKey;
    dragged = null;
    if (line) onSelect(points.filter((point) => within(line, left(point), top(point))).map((point) => point.image.id), add);
    else if (!moved && event.button === 0) { const found = at(...place(event)); onSelect(found ? [found.image.id] : [], add); }
    later();
  });
  node.addEventListener("pointercancel", () => { dragged = null; later(); });
  new ResizeObserver(later).observe(node);

  return Object.assign(canvas, {
    node, draw: later, zoom,
    set(found) { points = found; hovered = null; later(); },
    move(x, y) { view.x += x; view.y += y; bound(); },
    fit() { Object.assign(view, { scale: 1, x: 0, y: 0 }); later(); },
  });
}
