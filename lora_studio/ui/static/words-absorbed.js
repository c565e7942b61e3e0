// "Absorbed": what the trigger word will take into its meaning. Tags to prune with the reason, and tags that are fused.
import { button, call, fill, h, icon, number, plural, state } from "./core.js";
import { keepFocus } from "./focus.js";
import { editPictures, pictures } from "./pictures.js";
import { answer, having, shareBar, together } from "./words-ask.js";
import { confirmDiff } from "./words-diff.js";

const MEANING = {
  character: "A tag that stands beside the trigger in nearly every caption keeps its part of the meaning: without it the prompt gives half the character. Take out what belongs to the character, so that the trigger stands for it; keep what a prompt should change.",
  style: "Words for the style share it with the trigger. Take them out, and keep the words for what the pictures show, so that those stay out of the style.",
  concept: "Words that say the concept again share it with the trigger. Take them out, and keep what merely happens to be in the pictures.",
};

export function absorbedView({ show, scope }) {
  const found = answer("words.absorbed", draw);
  const node = h("div.ls-words-scroll", { id: "ls-absorbed" });

  async function prune(tags) {
    const done = await confirmDiff({
      title: tags.length === 1 ? `Prune ${tags[0]}` : `Prune ${number(tags.length)} tags`, yes: "Prune",
      note: `${tags.length === 1 ? "It is" : "They are"} taken out of all captions and noted in the plan, so that the auto-tagger leaves ${tags.length === 1 ? "it" : "them"} out too.`,
      preview: () => call("words.preview", { project: state.project, ids: null, edit: { do: "prune", tags } }, { quiet: true }),
      apply: (digest) => editPictures("words.prune", { tags, digest }),
    });
    if (done) found.forget();
  }

  function proposal(one, trigger) {
    const cut = one.action === "prune";
    return h("tr", { "data-tag": one.tag, "data-action": one.action },
      h("th", { scope: "row" }, h("div.ls-absorbed-tag", null, one.tag), h("div.ls-faint", null, one.category)),
      h("td.ls-absorbed-share", null, shareBar(one.share)),
      h("td", null, one.why),
      h("td.ls-absorbed-do", null, button("Show", () => show(having([one.tag]), one.tag), { kind: "quiet", label: `Show the pictures with ${one.tag}` }),
        button("Prune", () => prune([one.tag]), { kind: cut ? "" : "quiet", label: `Prune ${one.tag}`, title: `Take ${one.tag} out of all captions: ${trigger || "the LoRA"} stands for it then` })));
  }

  const table = (rows, trigger) => h("table.ls-absorbed-table", null, h("thead", null, h("tr", null, ["Tag", "Share", "Why", ""].map((text) => h("th", { scope: "col" }, text)))), h("tbody", null, rows.map((one) => proposal(one, trigger))));

  function fused(one) {
    return h("li.ls-fused", null, h("div.ls-fused-tags", null, one.tags.map((tag, place) => [place > 0 && h("span.ls-faint", { "aria-label": "and" }, "+"), h("span.ls-example", null, tag)]), shareBar(one.share)),
      h("div", null, one.text), button("Show the pictures", () => show(together(one.tags), one.tags.join(" + ")), { kind: "quiet", icon: "image" }));
  }

  function draw() {
    found.ask(scope().mode);
    const all = found.found;
    if (!all || found.problem) {
      fill(node, h("div.ls-empty", null, found.problem ? icon("warn", 28) : h("span.ls-spinner"), h("h3", null, found.problem || "Working out what the trigger will absorb")));
      return;
    }
    if (scope().mode === "prose") {
      fill(node, h("div.ls-empty", null, icon("bulb", 28), h("h3", null, "These captions are sentences"), h("p", null, `What the trigger absorbs can be counted of tags only. Leave out of the sentences what ${all.trigger || "the LoRA"} shall stand for, and name what a prompt should change.`)));
      return;
    }
    const cut = all.proposals.filter((one) => one.action === "prune"), keep = all.proposals.filter((one) => one.action !== "prune"), trigger = all.trigger;
    keepFocus(node, () => fill(node,
      h("section.ls-set-card", { "aria-label": "To prune" },
        h("div.ls-card-head", null, h("h2", null, cut.length ? `${plural(cut.length, "tag")} to prune` : "Nothing to prune"), h("span.ls-fill"),
          cut.length > 1 && button(cut.length === 2 ? "Prune both" : `Prune all ${number(cut.length)}`, () => prune(cut.map((one) => one.tag)), { kind: "primary", id: "ls-prune-all" })),
        h("p.ls-muted", null, MEANING[all.kind]),
        cut.length ? table(cut, trigger) : h("div.ls-note.good", null, pictures.all.some((image) => image.caption) ? "No tag takes a part of the meaning that should be the trigger's." : "There are no captions yet.")),
      all.fused.length > 0 && h("section.ls-set-card", { "aria-label": "Fused tags" }, h("div.ls-card-head", null, h("h2", null, "Fused"), h("span.ls-muted", null, "What always stands together is learned as one thing. What follows from each:")), h("ul.ls-fused-list", null, all.fused.map(fused))),
      keep.length > 0 && h("section.ls-set-card", { "aria-label": "To keep" }, h("div.ls-card-head", null, h("h2", null, "Frequent, and better kept"), h("span.ls-muted", null, "These stay words that a prompt can change.")), table(keep, trigger)),
      all.pruned.length > 0 && h("section.ls-set-card", { "aria-label": "Pruned already" }, h("div.ls-card-head", null, h("h2", null, "Pruned already"), h("span.ls-muted", null, "The auto-tagger leaves them out.")), h("div.ls-examples", null, all.pruned.map((tag) => h("span.ls-example", null, tag))))));
  }
  return { node, draw };
}
