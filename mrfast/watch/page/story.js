"use strict";
/* One task's story: its attempts, what it read and wrote, why it failed, what it printed. */
(() => {
  const { el, byId, count, bytes, seconds, plural, ENDS, STATE_WORDS } = globalThis.mrfast;
  const STEPS = ["wait", "compute", "write"];

  class Story {
    constructor(closed) {
      this.host = byId("story");
      this.body = byId("story-body");
      this.title = byId("story-title");
      this.task = null;
      this.closed = closed;
      byId("story-close").addEventListener("click", () => this.close());
      document.addEventListener("keydown", (event) => { if (event.key === "Escape" && this.task) this.close(); });
    }

    open(task, model, now, focus = false) {
      if (this.task === null) this.before = document.activeElement;
      this.task = task;
      this.host.hidden = false;
      document.body.classList.add("telling");
      this.stamp = "";
      this.update(model, now);
      this.host.scrollTop = 0;
      if (focus) byId("story-close").focus();
    }

    close() {
      const inside = this.host.contains(document.activeElement);
      this.task = null;
      this.host.hidden = true;
      document.body.classList.remove("telling");
      if (inside && this.before) this.before.focus();
      this.closed();
    }

    update(model, now) {
      const { task } = this;
      if (!task) return;
      const going = task.attempts.some((each) => each.end === null);
      const stamp = [task.name, task.state, task.attempts.length, task.trouble, task.notes.length, task.printed,
        going ? Math.round(now) : task.attempts.map((each) => each.word)].join();
      if (stamp === this.stamp) return;
      this.stamp = stamp;
      this.title.textContent = task.name;
      const printed = model.printed.filter((each) => each.task === task.name);
      this.body.replaceChildren(
        el("p", { class: `state-line is-${task.state}` }, `${task.kind === "m" ? "Map" : "Reduce"} task, ${STATE_WORDS[task.state]}`,
          task.trouble ? `; ${plural(task.trouble, "mishap")}` : ""),
        ...(task.input ? [el("p", { class: "path" }, task.input, el("span", { class: "soft" },
          ` ${bytes(task.bytes)}${task.pieces > 1 ? ` in ${count(task.pieces)} pieces, of which it is the first` : ""}`))] : []),
        ...this.range(task, model),
        ...(task.attempts.length ? [] : [el("p", { class: "soft" }, task.restored ? "An earlier run had done it." : "It has not started yet.")]),
        ...task.attempts.map((attempt) => this.attempt(attempt, model, now)),
        ...task.notes.map((note) => el("p", { class: "note" }, `${seconds(note.t)}: ${note.text}`)),
        ...(printed.length ? [el("h4", {}, "Printed"), el("pre", { tabindex: "0" }, printed.map((each) => each.text).join("\n"))] : []),
      );
    }

    range(task, model) {
      const size = model.planned?.partitions_per_reduce || 1;
      if (task.kind === "m" || size < 2) return [];
      const last = Math.min((task.index + 1) * size, model.planned.reduces) - 1;
      return [el("p", { class: "soft" }, `Partitions ${count(task.index * size)} to ${count(last)}`)];
    }

    attempt(attempt, model, now) {
      const took = (attempt.end ?? now) - attempt.start;
      const word = attempt.end === null ? "running" : ENDS[attempt.word] || attempt.word;
      const usual = model.usual(attempt);
      const facts = [["Worker", attempt.worker.name], ["Time", `${seconds(attempt.start)} to ${attempt.end === null ? "now" : seconds(attempt.end)} (${seconds(took)})`]];
      if (model.isStraggler(attempt, now)) facts.push(["Straggler", `${(model.ownTime(attempt, now) / usual).toFixed(1)} times the ${seconds(usual)} of its like`]);
      const going = attempt.end === null && model.progress(attempt);
      if (going) facts.push(["Now", `${going.phase || "working"}, ${bytes(going.bytes_done)} of ${bytes(going.bytes_total)}, ${count(going.records)} records`]);
      if (attempt.done) {
        const { bytes_in: read, records_in: into, records_out: out, size } = attempt.done;
        if (read !== undefined) facts.push(["Read", bytes(read)]);
        facts.push(["Records", `${count(into)} in, ${count(out)} out`], ["Wrote", bytes(size)]);
      }
      const { failure } = attempt;
      return el("article", { class: `attempt ended-${attempt.word || "running"}` },
        el("h3", {}, attempt.name, el("span", { class: "badge" }, word), attempt.backup ? el("span", { class: "badge backup" }, "backup") : null,
          attempt.adopted ? el("span", { class: "badge" }, "adopted") : null),
        el("dl", {}, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]).flat()),
        this.steps(attempt),
        failure ? failureBody(failure) : null);
    }

    /** Where an attempt's time went. */
    steps(attempt) {
      const spent = attempt.done?.seconds;
      const all = spent ? STEPS.reduce((sum, name) => sum + (spent[name] || 0), 0) : 0;
      if (!all) return null;
      const bar = el("div", { class: "steps", "aria-hidden": "true" }, STEPS.map((name) => {
        const part = el("i", { class: name });
        part.style.flexGrow = String((spent[name] || 0) / all);
        return part;
      }));
      return el("div", {}, bar, el("p", { class: "soft small" }, STEPS.map((name) => `${name} ${seconds(spent[name] || 0)}`).join(" · ")));
    }
  }

  /** Why an attempt failed, with the user's traceback. */
  function failureBody(failure, message = true) {
    const where = failure.input ? `${failure.input}${failure.offset !== null && failure.offset !== undefined ? `, byte ${count(failure.offset)}` : ""}` : "";
    return el("div", { class: "failure" }, message ? el("p", { class: "message" }, failure.message || failure.kind || "It failed.") : null,
      where ? el("p", { class: "path" }, where) : null,
      failure.traceback ? el("pre", { class: "traceback", tabindex: "0" }, failure.traceback) : null);
  }

  Object.assign(globalThis.mrfast, { Story, failureBody });
})();
