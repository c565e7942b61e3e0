// Where the chosen pictures are from and whom to thank: one form for one picture or a thousand; the credits of an export.
import { button, call, dialog, fill, h, plural, state, toast } from "./core.js";
import { editPictures } from "./pictures.js";
import { undoLast } from "./shell.js";
import { copy } from "./uploads.js";

const FIELDS = { author: "Author", licence: "Licence", consent: "Consent", url: "Address", source: "Source" };
const HINTS = { author: "who made it", licence: "CC BY 4.0, own work, ...", consent: "who agreed, and when", url: "https://", source: "" };

/** `selected()` gives the ids chosen in the grid. */
export function createOrigins(selected) {
  const node = h("section.ls-origins", { id: "ls-origins" });
  let asked = 0, drawn = "";

  async function update() {
    const mine = ++asked;
    const ids = selected();
    const found = ids.length ? await call("gathering.origins", { project: state.project, ids }) : { ids: [], fields: {} };
    if (mine !== asked || (node.contains(document.activeElement) && drawn === String(found.ids))) return; // somebody is writing
    drawn = String(found.ids);
    draw(found);
  }

  function draw({ ids, fields }) {
    const credits = button("Credits", showCredits, { id: "ls-credits", title: "What is given away with the LoRA" });
    if (!ids.length) { fill(node, h("p.ls-muted", null, "Choose pictures on the left to say where they are from. Ctrl A takes all of them."), h("div.ls-row", null, credits)); return; }
    const inputs = Object.entries(FIELDS).map(([name, title]) => {
      let mixed = fields[name] === null;
      let before = fields[name] || "";
      const input = h("input.ls-input", { type: "text", id: `ls-origin-${name}`, value: before, placeholder: mixed ? "several; writing here replaces them all" : HINTS[name], maxlength: "2000", autocomplete: "off" });
      input.addEventListener("change", async () => {
        if (input.value.trim() === before && !mixed) return;
        before = input.value.trim();
        mixed = false;
        try {
          await editPictures("gathering.provenance", { ids, fields: { [name]: input.value } });
          toast(`${title} written down for ${plural(ids.length, "picture")}`, { action: { text: "Undo", run: () => undoLast().then(update) } });
        } finally { await update(); }
      });
      input.addEventListener("keydown", (event) => { if (event.key === "Enter") input.blur(); });
      return h("div.ls-field", null, h("label.ls-muted", { for: input.id }, title), input);
    });
    const address = fields.url && /^https?:\/\//i.test(fields.url) && h("a.ls-link", { href: fields.url, target: "_blank", rel: "noopener noreferrer" }, "Open the address");
    fill(node, h("div.ls-import-head", null, h("h3", null, `Origin of ${plural(ids.length, "picture")}`), credits),
      h("p.ls-muted", null, "What you write holds for all chosen pictures at once. Ctrl A takes all of them."), inputs, address);
  }

  async function showCredits() {
    const { rows, text } = await call("gathering.credits", { project: state.project });
    await dialog("Credits", () => (rows.length ? h("div.ls-stack", null,
      h("table.ls-table", { id: "ls-credit-rows" }, h("thead", null, h("tr", null, ["Author", "Licence", "From", "Pictures"].map((title) => h("th", null, title)))),
        h("tbody", null, rows.slice(0, 100).map((row) => h("tr", null, h("td", null, row.author || "unknown"), h("td", null, row.licence || "unknown"), h("td", null, row.source || "–"), h("td", null, String(row.count)))))),
      text ? h("pre.ls-credit-text", null, text) : h("p.ls-muted", null, "Nothing is known of their origin yet; write it down beside the grid."),
      text && h("div.ls-row.end", null, button("Copy the text", async () => { await copy(text); toast("Copied"); }))) : h("p.ls-muted", null, "There are no pictures yet.")), { wide: true });
  }
  return { node, update };
}
