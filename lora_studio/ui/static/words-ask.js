// What the views of all captions share: answers that are asked for again when captions change, and who has which tag.
import { Failure, call, h, state } from "./core.js";
import { pictures, used } from "./pictures.js";
import { tagIndex } from "./tag-index.js";

/**
 * What Python answers to `name`: {found, problem, ask()}. `found` is null until it is known, and stays what it was while
 * a newer one is on its way; draw() is told of each. ask(mode) asks when the pictures, or what captions are, are others
 * than those of the answer.
 */
export function answer(name, draw) {
  let stamp = "", project = "", asked = "";
  const one = {
    found: null,
    problem: "",
    ask(mode = "") {
      if (project !== pictures.project) { project = pictures.project; one.found = null; }
      const plan = state.overview && state.overview.project;
      const now = [pictures.project, pictures.revision, plan && plan.trigger, mode].join("|");
      if (!pictures.loaded || stamp === now) return;
      stamp = now;
      asked = mode;
      call(name, { project: state.project }, { quiet: true }).then((found) => {
        if (stamp !== now) return;
        Object.assign(one, { found, problem: "" });
        draw();
      }, (error) => {
        if (!(error instanceof Failure)) throw error;
        if (stamp !== now) return;
        one.problem = [error.message, error.remedy].filter(Boolean).join(" ");
        draw();
      });
    },
    /** Ask anew though no picture changed: the plan did. */
    forget() { stamp = ""; one.ask(asked); },
  };
  return one;
}

let holders = new Map(), counted = "";
/** The ids of the used pictures that have one of the tags, in the order of the grid. */
export function having(tags) {
  const now = `${pictures.project}|${pictures.revision}|${pictures.all.length}`;
  if (now !== counted) {
    counted = now;
    holders = new Map();
    for (const image of pictures.all) {
      if (!used(image)) continue;
      for (const key of tagIndex.keys(image)) { const ids = holders.get(key); if (ids) ids.push(image.id); else holders.set(key, [image.id]); }
    }
  }
  const found = tags.map((tag) => holders.get(tag.toLowerCase()) || []);
  if (found.length === 1) return found[0];
  const some = new Set(found.flat());
  return pictures.all.filter((image) => some.has(image.id)).map((image) => image.id);
}

/** The ids of those that have all of them. */
export function together(tags) {
  const [first, ...rest] = tags.map((tag) => having([tag])), others = rest.map((ids) => new Set(ids));
  return first.filter((id) => others.every((ids) => ids.has(id)));
}

export const percent = (share) => (share > 0 && share < 0.01 ? "<1 %" : share < 1 && share > 0.99 ? ">99 %" : `${Math.round(100 * share)} %`);
/** A share as a quiet bar with its number. */
export const shareBar = (share, kind = "") => h("span.ls-share" + (kind ? `.${kind}` : ""), null, h("span.ls-share-bar", { "aria-hidden": "true" }, h("i", { style: `width:${Math.max(0, Math.min(100, 100 * share))}%` })), h("span.ls-share-number", null, percent(share)));
