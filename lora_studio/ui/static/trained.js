// What the training makes of a picture: the very pixels, what is lost, and the shapes that all pictures fall into.
import { button, call, fill, h, icon, number, plural, state } from "./core.js";

const LITTLE = 0.08, MUCH = 0.2; // share of a crop that its training shape cuts off
const GROWN = 1.05, BLURRY = 1.5; // how many times as wide it becomes

export const maskSource = (image) => `/media/${encodeURIComponent(state.project)}/${image.id}/mask?v=${image.mask}`;
const percent = (share) => (share > 0 && share < 0.01 ? "under 1%" : `${Math.round(100 * share)}%`);
const level = (value, some, much) => (value > much ? "bad" : value > some ? "warn" : "good");

/** What becomes of a part (see curation.preview): [{level, short, text}]. */
export function fate(part) {
  const cut = level(part.cut, LITTLE, MUCH), grown = level(part.scale, GROWN, BLURRY);
  return [
    { level: grown, short: part.enlarged ? `enlarged ${part.scale.toFixed(1)}×` : "not enlarged", text: part.enlarged ? `Enlarged to ${part.scale.toFixed(2)} times its size${grown === "good" ? "" : ": it gets soft, and softness is learned too"}` : part.scale > 0.995 ? "Kept at its own size" : `Made smaller, to ${percent(part.scale)} of its size` },
    { level: cut, short: part.cut > 0.0005 ? `${percent(part.cut)} cut off` : "nothing cut off", text: part.cut > 0.0005 ? `${percent(part.cut)} of it is cut off` : "Nothing is cut off" },
  ];
}

/** The shades over what a part loses, between its crop and what is trained, in the picture's box. */
export function deadArea(box, view) {
  const at = (x, y) => `${(100 * (x - box[0])) / (box[2] - box[0])}% ${(100 * (y - box[1])) / (box[3] - box[1])}%`;
  const [l, t, r, b] = view;
  const hole = [at(l, t), at(l, b), at(r, b), at(r, t), at(l, t)].join(",");
  return `clip-path:polygon(evenodd, 0% 0%, 0% 100%, 100% 100%, 100% 0%, 0% 0%, ${hole})`;
}

/**
 * The panel: {node, draw(parts, chosen, crops)}. `facts()` gives curation.shaping's answer, `change(setting, value)` changes a
 * setting and draws anew; `show(ids, title)` closes the editor and shows these pictures.
 */
export function trainedPanel(image, { facts, change, show }) {
  const about = h("div.ls-stack"), shots = h("div.ls-trained"), mirrors = h("div.ls-stack"), table = h("div.ls-stack");
  const node = h("div.ls-shape-panel", null, about, shots, mirrors, table);
  let mirrored = false;

  function shot(part, box) {
    const query = new URLSearchParams({ resolution: part.resolution, box: box.join(","), flip: mirrored });
    const source = `/media/${encodeURIComponent(state.project)}/${image.id}/trained?${query}`;
    return h("figure.ls-pixels", { "data-bucket": part.bucket.join("x") },
      h("img", { src: source, alt: `What is trained at ${part.bucket.join(" by ")}`, style: `aspect-ratio:${part.bucket[0]} / ${part.bucket[1]}` }),
      h("figcaption", null, h("div.ls-row", null, h("b", null, part.bucket.join(" × ")), h("span.ls-muted", null, `from ${part.size.join(" × ")}`)),
        fate(part).map((one) => h(`div.ls-note.${one.level}`, null, one.text))));
  }

  function drawMirrors(found) {
    const reasons = found.one_sided;
    fill(mirrors, h("h3", null, "Mirroring"),
      h(`div.ls-note.${found.flip && reasons.length ? "warn" : found.flip ? "info" : "good"}`, { id: "ls-mirroring" }, found.flip ? "Every picture is also trained mirrored." : "Off: left stays left and right stays right."),
      reasons.map((text) => h("div.ls-muted.ls-remedy", null, text)),
      found.flip && h("div.ls-row", null,
        h("label.ls-check", null, h("input", { type: "checkbox", checked: mirrored, onchange: (event) => { mirrored = event.target.checked; drawn = ""; draw(...last); } }), "Show it mirrored"),
        reasons.length > 0 && button("Switch mirroring off", () => change("data.flip", 0), { id: "ls-mirror-off" })));
  }

  function drawBuckets(found) {
    const most = Math.max(1, ...found.buckets.map((one) => one.count));
    const small = found.buckets.filter((one) => one.samples < found.batch).length;
    fill(table, h("h3", null, "All training shapes"),
      found.buckets.length === 0 && h("div.ls-muted", null, "No picture is used yet."),
      h("div.ls-buckets", null, found.buckets.map((one) => {
        const title = `Trained as ${one.width} × ${one.height}`, short = one.samples < found.batch;
        return h("button.ls-bucket" + (short ? ".short" : ""), { type: "button", "data-bucket": `${one.width}x${one.height}`, title: short ? `Only ${plural(one.samples, "sample")} an epoch: less than the batch of ${found.batch}` : "Show these pictures", onclick: () => show(one.ids, title) },
          h("span.ls-bucket-shape", { style: `aspect-ratio:${one.width} / ${one.height};${one.width > one.height ? "width" : "height"}:18px` }), h("span", null, `${one.width} × ${one.height}`),
          h("span.ls-bar", null, h("span", { style: `width:${(100 * one.count) / most}%` })), h("span.ls-bucket-count", null, number(one.count)), short && icon("warn", 13));
      })),
      small > 0 && h("div.ls-note.warn", { id: "ls-small-buckets" }, `${plural(small, "shape")} (marked) ${small === 1 ? "does" : "do"} not fill a batch of ${found.batch}. Their pictures train in smaller batches, so that each of them weighs more; none is left out. Crop them like the others to mend it.`));
  }

  let drawn = "", last = [[], 0, []];
  function draw(parts, chosen, boxes) {
    last = [parts, chosen, boxes];
    const found = facts();
    if (!found) return;
    const mine = parts.filter((part) => part.crop === chosen);
    const key = JSON.stringify([mine, mirrored, found]);
    if (key === drawn) return;
    drawn = key;
    fill(about, h("div.ls-muted", null, `Exactly the pixels that are trained, at the project's training size of ${found.resolutions.join(", ")}${boxes.length > 1 ? `; crop ${chosen + 1} of ${boxes.length}` : ""}.`,
      found.random_crop ? " What is cut off differs from time to time, since random crops are on; this is the middle." : "", " Striped in the picture: what is cut off."));
    fill(shots, mine.map((part) => shot(part, boxes[part.crop])));
    drawMirrors(found);
    drawBuckets(found);
  }
  return { node, draw };
}
