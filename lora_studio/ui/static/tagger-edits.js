// What another program changed in a folder of captions: its edits, and captions that were changed on both sides.
import { Failure, button, call, dialog, fill, h, icon, number, plural, state, thumb, toast } from "./core.js";
import { pictures } from "./pictures.js";
import { undoLast } from "./shell.js";
import { diffRow } from "./words-diff.js";

const SIDES = { ours: "Keep this", theirs: "Take the file's", "": "Later" };

/** A dialog that offers the edits in `folder`; resolves with the answer of files.take, null when nothing was taken. */
export function showEdits(folder) {
  return dialog("Edits by another program", (close) => {
    let page = null;
    const chosen = new Map(); // picture changed on both sides -> "ours" or "theirs"
    const body = h("div.ls-stack.ls-edits");
    const go = button("Take them over", take, { kind: "primary", id: "ls-edits-apply", disabled: true });

    async function look(problem = "") {
      fill(body, h("div.ls-diff-told", null, h("span.ls-spinner"), h("span.ls-muted", null, "Reading the folder")));
      try { page = await call("files.edits", { project: state.project, folder }, { quiet: true }); } catch (error) {
        if (!(error instanceof Failure)) throw error;
        fill(body, h("div.ls-note.bad", { role: "alert" }, h("span", null, error.message, " ", error.remedy)));
        return;
      }
      draw(problem);
    }

    function draw(problem = "") {
      const both = new Map();
      for (const one of page.conflicts) both.set(one.id, [...(both.get(one.id) || []), one]);
      fill(body, problem && h("div.ls-note.warn", { role: "alert" }, h("span", null, problem)),
        page.missing && h("div.ls-note.warn", null, h("span", null, "The folder is gone, or its disk is not connected.")),
        page.problems.map((text) => h("div.ls-note.warn", null, h("span", null, text))),
        page.count > 0 && h("section", null, h("h3", null, `${plural(page.count, "caption")} changed there`), h("div.ls-diff-rows", { role: "table", "aria-label": "Changes of captions", tabindex: "0" }, page.changes.map(diffRow))),
        page.count > 0 && page.changes.length < page.count && h("p.ls-muted", null, `The first ${number(page.changes.length)} are shown.`),
        both.size > 0 && h("section", null, h("h3", null, `${plural(page.conflict_count, "text")} changed on both sides`), h("p.ls-muted", null, "Nothing is lost until you choose; what you leave for later is offered again."), [...both].map(conflict)),
        page.gone.length > 0 && h("p.ls-muted", null, `${plural(page.gone.length, "file")} ${page.gone.length === 1 ? "was" : "were"} taken away there; the captions here stay.`),
        !page.count && !both.size && !page.missing && h("div.ls-diff-told", null, icon("check", 15), "Nothing is changed there."));
      drawGo();
    }
    function drawGo() { go.disabled = !page || (!page.count && !chosen.size); }

    /** One picture that was changed here and there: both texts, and what to do. */
    function conflict([id, texts]) {
      const image = pictures.byId.get(id);
      const pick = h("div.ls-segments", { role: "group", "aria-label": `Which text of picture ${id}` });
      const drawPick = () => fill(pick, Object.entries(SIDES).map(([side, title]) => h("button.ls-segment" + ((chosen.get(id) || "") === side ? ".current" : ""), { type: "button", "data-side": side || "later", "aria-pressed": String((chosen.get(id) || "") === side), onclick: () => { if (side) chosen.set(id, side); else chosen.delete(id); drawPick(); drawGo(); } }, title)));
      drawPick();
      return h("div.ls-conflict", { "data-id": id }, image ? h("img", { src: thumb(image), alt: "", loading: "lazy" }) : h("span"),
        h("div.ls-stack", null, texts.map((one) => h("div.ls-conflict-texts", null, h("span.ls-faint", null, "here"), h("span", null, one.ours || "empty"), h("span.ls-faint", null, "file"), h("span", null, one.theirs || "empty")))), pick);
    }

    async function take() {
      const side = (name) => [...chosen].filter(([, one]) => one === name).map(([id]) => id);
      try {
        const answer = await call("files.take", { project: state.project, folder, digest: page.digest, theirs: side("theirs"), ours: side("ours") }, { quiet: true });
        close(answer);
        toast(answer.count ? `${plural(answer.count, "caption")} changed` : "Your captions stay", { action: answer.count ? { text: "Undo", run: undoLast } : null });
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        await look([error.message, error.remedy].filter(Boolean).join(" "));
      }
    }

    look();
    return h("div", null, h("p.ls-muted.ls-path", null, folder), body, h("div.ls-row.end", null, button("Cancel", () => close(), { kind: "quiet" }), go));
  }, { wide: true });
}
