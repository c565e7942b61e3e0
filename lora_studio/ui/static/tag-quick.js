// Tags under the keys 1 to 9. They are kept in the project's plan, and so come along when the project moves.
import { button, call, dialog, fill, h, state } from "./core.js";
import { tagField } from "./chips.js";

/** {node, draw(has), tag(number), edit()}. tags() -> what is kept; onSaved(tags); onPress(tag); has(tag): all chosen pictures have it */
export function quickTags({ tags, words, onSaved, onPress }) {
  const node = h("div.ls-quick", { role: "group", "aria-label": "Quick tags" });
  let drawn = "";

  function edit() {
    return dialog("Quick tags", (close) => {
      const fields = Array.from({ length: 9 }, (_, place) => {
        const field = tagField({ label: `Tag of key ${place + 1}`, placeholder: "", words, onPick: (text) => { const next = fields[place + 1]; if (next) queueMicrotask(() => next.input.focus()); return text; } });
        field.input.value = tags()[place] || "";
        return field;
      });
      const keep = async () => {
        const named = fields.map((field) => field.input.value.replaceAll(",", " ").trim());
        while (named.length && !named.at(-1)) named.pop();
        onSaved(await call("tagging.quick", { project: state.project, tags: named }));
        close();
      };
      setTimeout(() => fields[0].input.focus());
      return h("div.ls-stack", null, h("p.ls-muted", null, "A number key gives the tag to the chosen pictures, or takes it from them when all have it."),
        h("div.ls-quick-fields", null, fields.map((field, place) => h("label.ls-quick-field", null, h("kbd", null, String(place + 1)), field.node))),
        h("div.ls-row.end", null, button("Cancel", () => close(), { kind: "quiet" }), button("Keep", keep, { kind: "primary", id: "ls-quick-keep" })));
    });
  }

  return {
    node,
    edit,
    tag: (digit) => tags()[digit - 1] || "",
    draw(has) {
      const named = tags().map((tag, place) => ({ tag, place, on: Boolean(tag) && has(tag) })).filter((one) => one.tag), key = JSON.stringify(named);
      if (key === drawn) return;
      drawn = key;
      fill(node, named.map(({ tag, place, on }) => h("button.ls-quick-tag" + (on ? ".on" : ""), { type: "button", "aria-pressed": String(on), onclick: () => onPress(tag) }, h("kbd", null, String(place + 1)), tag)),
        h("button.ls-link", { type: "button", id: "ls-quick-edit", title: "Q", onclick: edit }, named.length ? "Edit" : "Set tags for the keys 1–9"));
    },
  };
}
