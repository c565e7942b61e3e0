// A picture that is worked on: fitted into its place, zoomed by wheel, keys or two fingers, with layers of its size above.
import { h } from "./core.js";
import { clamp } from "./frame.js";

const MOST = 24, AIR = 26; // pixels around the picture

/**
 * {node, layer, zoom(factor), fit(), scale}. `layer` holds what lies over the picture, in shares of it. `start(event, at)` is
 * asked when a pointer goes down: it returns {move(event, at), end(cancelled)}, or null to move the picture; `at` in shares.
 */
export function pictureSheet(image, source, { start, hover }) {
  const picture = h("img.ls-sheet-picture", { src: source, alt: image.name, draggable: "false" });
  const layer = h("div.ls-sheet", null, picture);
  const node = h("div.ls-sheet-view", null, layer);
  const view = { scale: 1, x: 0.5, y: 0.5 }; // the place of the picture that lies in the middle
  const pointers = new Map();
  let work = null;

  function sizes() {
    const width = node.clientWidth, height = node.clientHeight;
    const base = Math.min((width - 2 * AIR) / image.width, (height - 2 * AIR) / image.height);
    return { width, height, wide: image.width * base * view.scale, high: image.height * base * view.scale };
  }
  function place() {
    const { width, height, wide, high } = sizes();
    if (width <= 0 || height <= 0) return;
    const rim = (room, long) => (long + 2 * AIR <= room ? 0.5 : (room / 2 - AIR) / long); // the nearest to an edge that the middle may be
    view.x = clamp(view.x, Math.min(0.5, rim(width, wide)), Math.max(0.5, 1 - rim(width, wide)));
    view.y = clamp(view.y, Math.min(0.5, rim(height, high)), Math.max(0.5, 1 - rim(height, high)));
    layer.style.cssText = `width:${wide}px;height:${high}px;left:${width / 2 - view.x * wide}px;top:${height / 2 - view.y * high}px`;
    node.dataset.scale = view.scale.toFixed(2);
    node.classList.toggle("pixels", wide > 2.5 * image.width);
  }
  const at = (event) => { const area = layer.getBoundingClientRect(); return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height]; };

  /** Zoom, keeping the place under (clientX, clientY) where it is; the middle without one. */
  function zoom(factor, point = null) {
    const area = node.getBoundingClientRect();
    const where = point || { clientX: area.left + area.width / 2, clientY: area.top + area.height / 2 };
    const held = at(where);
    view.scale = clamp(view.scale * factor, 1, MOST);
    const { width, height, wide, high } = sizes();
    view.x = held[0] - (where.clientX - area.left - width / 2) / wide;
    view.y = held[1] - (where.clientY - area.top - height / 2) / high;
    place();
  }
  function pan(dx, dy) { const { wide, high } = sizes(); view.x -= dx / wide; view.y -= dy / high; place(); }

  node.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 300), event); }, { passive: false });
  node.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    event.preventDefault();
    node.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    if (pointers.size > 1) { if (work) work.end(true); work = null; return; } // the second finger: this becomes a pinch
    work = event.button === 1 ? null : start(event, at(event));
  });
  node.addEventListener("pointermove", (event) => {
    if (hover) hover(event, at(event));
    const before = pointers.get(event.pointerId);
    if (!before) return;
    if (pointers.size > 1) {
      const other = [...pointers.values()].find((one) => one.pointerId !== event.pointerId);
      const apart = (one) => Math.max(1, Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY));
      zoom(apart(event) / apart(before), other);
    } else if (work) { work.move(event, at(event)); } else { pan(event.clientX - before.clientX, event.clientY - before.clientY); }
    pointers.set(event.pointerId, event);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    node.addEventListener(name, (event) => {
      pointers.delete(event.pointerId);
      if (work) work.end(name === "pointercancel");
      work = null;
    });
  }
  new ResizeObserver(place).observe(node);
  return { node, layer, zoom, fit: () => { Object.assign(view, { scale: 1, x: 0.5, y: 0.5 }); place(); }, get shown() { return layer.getBoundingClientRect().width / image.width; } };
}
