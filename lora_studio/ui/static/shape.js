// The inspector's picture: what of it is trained on, a crop to drag, and the way into the large editor.
import { button, call, fill, full, h, icon, plural, state } from "./core.js";
import { shapeDialog } from "./editor.js";
import { WHOLE, cropFrame, css, fitted, isWhole, same } from "./frame.js";
import { editPictures } from "./pictures.js";
import { fate, maskSource } from "./trained.js";

const RATIOS = { Free: 0, "1:1": 1, "4:5": 4 / 5, "3:4": 3 / 4, "4:3": 4 / 3, "16:9": 16 / 9 };
const HEIGHT = 260;

/** {node, show(image or null, fresh), focus(), open(mode)}. `fresh`: another picture than before. `show(ids, title)` fills the grid. */
export function shapeEditor({ show }) {
  let image = null, box = WHOLE, ratio = "Free", asked = 0, shown = "";
  const picture = h("img.ls-crop-picture", { alt: "", draggable: "false" });
  const mask = h("img.ls-crop-mask", { alt: "", draggable: "false", hidden: true });
  const others = h("div");
  const frame = cropFrame({
    label: "Crop: arrows move, Shift+arrows resize, Enter saves, Escape resets",
    image: () => image, box: () => box, shape: () => RATIOS[ratio], onMove: (next) => { box = next; draw(); },
  });
  const stage = h("div.ls-crop-stage", null, picture, mask, others, frame.node);
  const line = h("div.ls-crop-line"), tools = h("div.ls-crop-tools");
  const node = h("div.ls-crop", null, stage, line, tools);

  const saved = () => (image && image.crop ? image.crop : WHOLE);
  const save = () => editPictures("curation.crop", { id: image.id, box: isWhole(box) ? null : box });

  async function draw() {
    frame.draw();
    const fresh = same(box, saved());
    fill(tools, h("div.ls-row", null,
      h("div.ls-segments", { role: "group", "aria-label": "Shape of the crop" }, Object.keys(RATIOS).map((name) => h("button.ls-segment" + (name === ratio ? ".current" : ""), { type: "button", "aria-pressed": String(name === ratio), onclick: () => { ratio = name; if (RATIOS[name]) box = fitted(image, RATIOS[name], box); draw(); } }, name)))),
    h("div.ls-row", null,
      !fresh && button("Save crop", save, { kind: "primary" }),
      !fresh && button("Cancel", () => { box = saved(); ratio = "Free"; draw(); }, { kind: "quiet" }),
      fresh && image && image.crop && button("Whole picture", async () => { box = WHOLE; await save(); }, { kind: "quiet" }),
      fresh && button([image && image.mask ? "Crops and mask" : "Crop, mask, preview", h("kbd", null, "E")], () => open(), { icon: "crop", id: "ls-shape-open", title: "The large editor" })));
    await measure();
  }

  /** What the training makes of it, asked only when that can have changed. */
  async function measure() {
    if (!image) return;
    const boxes = [isWhole(box) ? null : box, ...image.more_crops], key = JSON.stringify([image.id, boxes]), mine = ++asked;
    if (key === shown) return;
    try {
      const [part] = await call("curation.preview", { project: state.project, id: image.id, boxes }, { quiet: true });
      if (mine !== asked) return;
      shown = key;
      fill(line, h("span", null, part.size.join(" × ")), h("span.ls-muted", null, "trained as"), h("span.ls-chip", null, part.bucket.join(" × ")),
        fate(part).filter((one) => one.level !== "good").map((one) => h(`span.ls-badge.${one.level}`, { title: one.text }, one.short)),
        image.more_crops.length > 0 && h("span.ls-muted", null, `and ${plural(image.more_crops.length, "more crop")}`));
    } catch { if (mine === asked) { shown = ""; fill(line); } }
  }

  async function open(mode) {
    if (!image) return;
    const last = document.activeElement;
    await shapeDialog(image, { mode, show });
    shown = "";
    draw();
    if (last && last.isConnected) last.focus({ preventScroll: true });
  }

  frame.node.addEventListener("keydown", (event) => {
    if (frame.onKey(event)) { event.stopPropagation(); return; }
    if (event.key === "Enter") { event.preventDefault(); event.stopPropagation(); save().catch(() => {}); }
    if (event.key === "Escape") { event.stopPropagation(); box = saved(); draw(); frame.node.blur(); }
  });
  frame.node.addEventListener("dblclick", () => open());

  return {
    node,
    focus: () => frame.node.focus(),
    open,
    show(next, fresh = true) {
      const before = saved();
      const untouched = same(box, before);
      image = next && { ...next };
      node.hidden = !image;
      if (!image) return;
      const source = full(image);
      if (picture.getAttribute("src") !== source) picture.src = source;
      picture.alt = image.name;
      mask.hidden = !image.mask;
      if (image.mask && mask.getAttribute("src") !== maskSource(image)) mask.src = maskSource(image);
      stage.style.aspectRatio = `${image.width} / ${image.height}`;
      stage.style.width = `min(100%, ${Math.round((HEIGHT * image.width) / image.height)}px)`;
      fill(others, image.more_crops.map((one) => h("div.ls-crop-other", { style: css(one) })));
      if (fresh || untouched || same(box, saved())) { box = saved(); ratio = "Free"; }
      draw();
    },
  };
}
