// A rectangle over a picture: dragged by its middle, an edge or a corner, or by the arrow keys; and what there is to reckon.
import { h } from "./core.js";

export const WHOLE = [0, 0, 1, 1];
export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
export const same = (a, b) => a.every((value, index) => Math.abs(value - b[index]) < 1e-4);
export const isWhole = (box) => same(box, WHOLE);
export const css = (box) => `left:${100 * box[0]}%;top:${100 * box[1]}%;width:${100 * (box[2] - box[0])}%;height:${100 * (box[3] - box[1])}%`;
const LEAST = 0.02;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** The largest rectangle of that shape (width : height) around the middle of `box`, all as shares of the image. */
export function fitted(image, shape, box) {
  const share = (shape * image.height) / image.width;
  const width = Math.min(1, share), height = width / share;
  const x = clamp((box[0] + box[2]) / 2 - width / 2, 0, 1 - width), y = clamp((box[1] + box[3]) / 2 - height / 2, 0, 1 - height);
  return [x, y, x + width, y + height];
}

/** `start` with a side ("n", "se", ...; "" is all of it) moved by shares; `share` is width : height to keep, 0 for any. */
export function moved(start, side, dx, dy, share) {
  let [left, top, right, bottom] = start;
  if (side === "") {
    const x = clamp(dx, -left, 1 - right), y = clamp(dy, -top, 1 - bottom);
    return [left + x, top + y, right + x, bottom + y];
  }
  if (side.includes("w")) left = clamp(left + dx, 0, right - LEAST);
  if (side.includes("e")) right = clamp(right + dx, left + LEAST, 1);
  if (side.includes("n")) top = clamp(top + dy, 0, bottom - LEAST);
  if (side.includes("s")) bottom = clamp(bottom + dy, top + LEAST, 1);
  if (share) {
    let width = side === "n" || side === "s" ? (bottom - top) * share : right - left;
    const room = Math.min(side.includes("w") ? start[2] : 1 - left, (side.includes("n") ? start[3] : 1 - top) * share);
    width = Math.min(width, room);
    const height = width / share;
    if (side.includes("w")) left = right - width; else right = left + width;
    if (side.includes("n")) top = bottom - height; else bottom = top + height;
  }
  return [left, top, right, bottom];
}

/** From one corner to another, at least LEAST on each side, of that share where there is one. */
export function spanned([x0, y0], [x1, y1], share = 0) {
  const east = x1 >= x0, south = y1 >= y0;
  const start = [clamp(east ? x0 : x0 - LEAST, 0, 1 - LEAST), clamp(south ? y0 : y0 - LEAST, 0, 1 - LEAST)];
  const box = [start[0], start[1], start[0] + LEAST, start[1] + LEAST];
  const side = (south ? "s" : "n") + (east ? "e" : "w");
  return moved(box, side, x1 - (east ? box[2] : box[0]), y1 - (south ? box[3] : box[1]), share);
}

/**
 * The frame's element, to lie in one of the picture's size. options: label; image() -> {width, height} or null; box() now;
 * shape() -> width : height to keep, 0 for any; onMove(box) while it moves, onDone() when it was let go.
 * A frame around the whole picture has nowhere to go: dragging there draws a new one.
 */
export function cropFrame({ label, image, box, shape, onMove, onDone }) {
  const node = h("div.ls-crop-frame", { tabindex: "0", role: "group", "aria-label": label },
    ["nw", "n", "ne", "e", "se", "s", "sw", "w"].map((side) => h(`span.ls-crop-handle.${side}`, { "data-side": side })));
  const share = () => (image() && shape() ? (shape() * image().height) / image().width : 0);

  node.addEventListener("pointerdown", (event) => {
    if (!image() || event.button || event.isPrimary === false) return;
    event.preventDefault();
    event.stopPropagation();
    node.focus({ preventScroll: true });
    node.setPointerCapture(event.pointerId);
    const side = event.target.dataset.side || "", start = box(), area = node.parentElement.getBoundingClientRect();
    const at = (now) => [(now.clientX - area.left) / area.width, (now.clientY - area.top) / area.height];
    const draws = side === "" && isWhole(start), from = at(event);
    let far = false;
    const move = (now) => {
      far = far || Math.hypot(now.clientX - event.clientX, now.clientY - event.clientY) > 3;
      if (far) onMove(draws ? spanned(from, at(now).map((value) => clamp(value, 0, 1)), share()) : moved(start, side, at(now)[0] - from[0], at(now)[1] - from[1], share()));
    };
    const end = () => { for (const name of ["pointerup", "pointercancel"]) node.removeEventListener(name, end); node.removeEventListener("pointermove", move); if (far && onDone) onDone(); };
    node.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) node.addEventListener(name, end);
  });

  return {
    node,
    draw() { node.style.cssText = css(box()); node.classList.toggle("whole", isWhole(box())); },
    /** An arrow moves it, with Shift its lower right corner; by one in a hundred, with Ctrl by one pixel. */
    onKey(event) {
      const step = ARROWS[event.key];
      if (!step || !image()) return false;
      event.preventDefault();
      const by = event.ctrlKey || event.metaKey ? [1 / image().width, 1 / image().height] : [0.01, 0.01];
      const side = !event.shiftKey ? "" : share() ? (step[0] ? "e" : "s") : "se";
      onMove(moved(box(), side, step[0] * by[0], step[1] * by[1], share()));
      if (onDone) onDone();
      return true;
    },
  };
}
