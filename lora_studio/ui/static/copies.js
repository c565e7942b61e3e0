// "Copies": pictures that are the same picture, side by side, the better one proposed.
import { Failure, bytes, button, call, fill, go, h, icon, number, plural, state, thumb, toast } from "./core.js";
import { compare } from "./compare.js";
import { keepFocus } from "./focus.js";
import { editPictures, pictures, used } from "./pictures.js";

const RELATIONS = { "same file": "the same file", "same picture": "nearly the same", smaller: "smaller copy", mirrored: "mirrored", cropped: "a part of it" };
const PAGE = 30; // groups drawn at once
const KEYS = [["↑ ↓", "group"], ["← →", "which to keep"], ["K", "keep it, reject the rest"], ["B", "keep all"], ["X", "compare"], ["U", "undo"]];

/** {node, draw(), onKey(event)}; actions: decide(decision, ids), open(id), undo() */
export function copiesView({ decide, open, undo }) {
  const head = h("div.ls-copies-head"), list = h("div.ls-copies-list", { id: "ls-copies" });
  const keys = h("div.ls-keys", null, KEYS.map(([key, text]) => h("span", null, h("kbd", null, key), " ", text)));
  const node = h("div.ls-copies", null, head, list, keys);
  const chosen = new Map(); // ids of a group -> the one to keep, where it is not the proposed one
  let current = 0, most = PAGE, facts = { sharpness: {}, compared: null }, asked = null, project = "";

  /** The groups with two or more pictures left: {key, group, images, best}, those yet to settle first. */
  function groups() {
    const found = [];
    for (const group of pictures.groups) {
      const relations = new Map(group.members.map((member) => [member.id, member]));
      const images = [group.best, ...relations.keys()].map((id) => pictures.byId.get(id)).filter((image) => image && used(image));
      if (images.length < 2) continue;
      const key = images.map((image) => image.id).sort((a, b) => a - b).join(" ");
      const picked = chosen.get(key), best = images.find((image) => image.id === picked) || images[0];
      found.push({ key, group, relations, images, best, settled: images.every((image) => image.decision === "keep") });
    }
    return { open: found.filter((one) => !one.settled), settled: found.filter((one) => one.settled) };
  }

  // ---- what can be done -----------------------------------------------------------------------------------------------

  const others = (one) => one.images.filter((image) => image.id !== one.best.id).map((image) => image.id);

  async function settle(these) {
    if (!these.length) return;
    const ids = these.flatMap(others);
    await editPictures("curation.settle", { groups: these.map((one) => ({ best: one.best.id, others: others(one) })) }, null, { ids, values: { decision: "reject" } });
    if (these.length > 1) toast(`${plural(these.length, "picture")} kept, ${plural(ids.length, "copy", "copies")} rejected`, { remedy: "Rejected pictures stay in the project.", action: { text: "Undo", run: () => undo() } });
  }
  const keepAll = (one) => decide("keep", one.images.map((image) => image.id));
  function pick(one, id) { chosen.set(one.key, id); draw(); }
  function turn(one, step) { const place = one.images.indexOf(one.best); pick(one, one.images[(place + step + one.images.length) % one.images.length].id); }
  const look = (one) => compare(one.best, one.images.find((image) => image.id !== one.best.id));

  // ---- drawing --------------------------------------------------------------------------------------------------------

  function tile(one, image) {
    const keep = image.id === one.best.id, member = one.relations.get(image.id), sharp = facts.sharpness[image.id];
    const pixels = (other) => other.width * other.height;
    const first = (value, among = one.images) => among.includes(image) && among.every((other) => value(other) <= value(image)) && among.some((other) => value(other) < value(image));
    const largest = one.images.filter((other) => pixels(other) >= 0.9 * Math.max(...one.images.map(pixels))); // smaller ones look sharper than they are
    const fact = (title, text, better) => h("div" + (better ? ".better" : ""), null, h("span", null, title), h("b", null, text));
    return h("div.ls-copy" + (keep ? ".keep" : ""), { "data-id": image.id },
      h("button.ls-copy-picture", { type: "button", "aria-pressed": String(keep), title: keep ? "This one is kept" : "Keep this one instead", "aria-label": `${keep ? "Kept" : "Keep instead"}: #${image.id} ${image.name}`, onclick: () => { current = groups().open.findIndex((other) => other.key === one.key); pick(one, image.id); } },
        h("img", { src: thumb(image), alt: "", loading: "lazy", draggable: "false" }),
        h(`span.ls-badge.${keep ? "good" : "bad"}`, null, keep ? "keep" : "reject")),
      h("div.ls-copy-name", null, h("button.ls-link", { type: "button", title: "Show it among all pictures", onclick: () => open(image.id) }, `#${image.id}`), h("span.ls-ellipsis.ls-muted", { title: image.name }, image.name.split("/").pop())),
      h("div.ls-copy-facts", null, fact("Size", `${image.width} × ${image.height}`, first(pixels)), fact("File", bytes(image.size), false),
        sharp !== undefined && fact("Sharpness", sharp.toFixed(3), first((other) => facts.sharpness[other.id] || 0, largest))),
      h("div.ls-copy-why", null, member ? h("span", { title: member.text }, RELATIONS[member.relation] || member.relation) : [icon("bulb", 12), h("span", null, `Proposed: ${one.group.why}`)]));
  }

  function card(one, place) {
    const two = one.images.length === 2, rest = one.images.length - 1;
    return h("section.ls-copy-group" + (place === current && !one.settled ? ".current" : ""), { "data-key": one.key, "aria-label": `Copies: ${one.images.map((image) => `#${image.id}`).join(", ")}` },
      h("div.ls-copy-tiles", null, one.images.map((image) => tile(one, image))),
      h("div.ls-copy-do", null,
        button(two ? `Keep #${one.best.id}, reject #${others(one)[0]}` : `Keep #${one.best.id}, reject ${number(rest)} others`, () => settle([one]), { kind: place === current && !one.settled ? "primary" : "" }),
        button(two ? "Keep both" : `Keep all ${number(one.images.length)}`, () => keepAll(one), { disabled: one.settled }),
        two && button("Swap", () => turn(one, 1), { kind: "quiet", title: "Keep the other one (→)" }),
        button("Compare", () => look(one), { kind: "quiet", title: "Large, side by side (X)" })));
  }

  function waiting() {
    if (facts.compared) return null;
    const job = pictures.look && pictures.look.job;
    return h("div.ls-unknown", { role: "status" }, job || !pictures.look ? h("span.ls-spinner") : icon("warn", 15),
      h("div", null, job || !pictures.look ? "The pictures are still being compared closely: more copies (parts, mirrored or changed ones) may be found." : "Not all pictures were compared closely yet: parts, mirrored and changed copies may be missing."));
  }

  function draw() {
    if (project !== pictures.project) { project = pictures.project; chosen.clear(); facts = { sharpness: {}, compared: null }; current = 0; most = PAGE; }
    if (!pictures.loaded || (pictures.all.length && !pictures.audited)) { fill(head); fill(list, h("div.ls-empty", null, h("span.ls-spinner"), h("p", null, "Comparing the pictures"))); return; }
    if (asked !== pictures.groups) ask();
    const { open: left, settled } = groups();
    current = Math.max(0, Math.min(current, left.length - 1));
    const rejected = left.reduce((sum, one) => sum + others(one).length, 0);
    fill(head, waiting(), left.length > 0 && h("div.ls-copies-line", null,
      h("div", null, h("h2", null, `${plural(left.length, "group")} of copies`), h("div.ls-muted", null, "A picture that is there twice counts double in the training. The proposed one is the largest, then the sharpest.")),
      button(left.length === 1 ? "Keep the best" : `Keep the best of all ${number(left.length)}`, () => settle(left), { id: "ls-settle-all", icon: "check", title: `Rejects ${plural(rejected, "picture")}; one step, which Undo takes back` })));
    const at = list.scrollTop;
    keepFocus(list, () => fill(list,
      !left.length && h("div.ls-empty", null, icon("check", 30), h("h3", null, settled.length ? "All copies are settled" : facts.compared ? "No picture is there twice" : "No copies found so far"),
        h("p", null, pictures.all.length ? "Resized, recompressed, mirrored and cut-out copies are looked for." : "There are no pictures yet."), !pictures.all.length && button("Gather some", () => go(state.project, "gathering"))),
      left.slice(0, most).map(card),
      left.length > most && button(`Show ${number(Math.min(PAGE, left.length - most))} more of ${number(left.length - most)}`, () => { most += PAGE; draw(); }),
      settled.length > 0 && h("details.ls-settled", null, h("summary", null, `${plural(settled.length, "group")} of which you kept all`), settled.slice(0, PAGE).map(card))));
    list.scrollTop = at;
  }

  async function ask() {
    const mine = asked = pictures.groups;
    try {
      const found = await call("curation.copies", { project: state.project }, { quiet: true });
      if (mine !== pictures.groups) return;
      facts = found;
      draw();
    } catch (error) { if (!(error instanceof Failure)) throw error; }
  }

  function onKey(event) {
    const { open: left } = groups(), one = left[current];
    if (!one || event.ctrlKey) return false;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      current = Math.max(0, Math.min(left.length - 1, current + step));
      most = Math.max(most, current + 1);
      draw();
      const shown = list.querySelector(".current");
      if (shown) shown.scrollIntoView({ block: "nearest" });
      return true;
    }
    const run = { ArrowRight: () => turn(one, 1), ArrowLeft: () => turn(one, -1), s: () => turn(one, 1), k: () => settle([one]), Enter: () => settle([one]), b: () => keepAll(one), x: () => look(one) }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!run) return false;
    Promise.resolve(run()).catch((error) => { if (!(error instanceof Failure)) throw error; });
    return true;
  }
  return { node, draw, onKey };
}
