"use strict";
/* What is told in words and tables: head, figures, workers, hot keys, counters, requests, errors, what apps printed. */
(() => {
  const { el, byId, text, fill, count, brief, plural, bytes, seconds, dollars, failureBody } = globalThis.mrfast;
  const WORKERS_SHOWN = 200;
  const ERRORS_SHOWN = 50;
  const STATE_TEXT = { PLANNING: "Planning", RUNNING: "Running", COMMITTING: "Committing", WAITING: "Waiting for workers", COMMITTED: "Committed", FAILED: "Failed",
    STOPPED: "Stopped" };
  const SMOOTH_S = 10;

  function drawHead(model, now) {
    const { job, planned, end, state } = model;
    const name = job?.name || planned?.app || job?.app || "job";
    text("name", name);
    document.title = `${STATE_TEXT[state] || state}: ${name} · mrfast`;
    const chip = byId("state");
    text(chip, STATE_TEXT[state] || state);
    chip.dataset.state = state;
    const about = [];
    if (planned?.app && planned.app !== name) about.push(planned.app);
    if (job) about.push(`job ${job.job}`, job.resumed ? "resumed" : "", job.began ? new Date(job.began * 1000).toLocaleString() : "");
    text("about", about.filter(Boolean).join(" · "));
    text("output", job?.output_url ? `Output ${job.output_url}` : "");
    const params = Object.entries(job?.params || {});
    text("params", params.length ? `Parameters ${params.map(([key, value]) => `${key}=${value}`).join(", ")}` : "");
    banner(model);
    const fraction = model.fraction();
    const percent = Math.floor(fraction * 100);
    const bar = byId("progress");
    bar.dataset.state = state;
    bar.setAttribute("aria-valuenow", percent);
    byId("progress-fill").style.width = `${fraction * 100}%`;
    const words = end && state !== "COMMITTED" ? `${STATE_TEXT[state] || state} at ${percent} %` : `${percent} %`;
    bar.setAttribute("aria-valuetext", words);
    text("percent", words);
    text("steps", steps(model, now));
  }

  function steps(model, now) {
    if (!model.planned) return "Looking at the input";
    const part = (kind, word) => `${count(model.done(kind))} of ${plural(model.tasks(kind).length, word)}`;
    const parts = [part("m", "map"), part("r", "reduce")];
    if (model.end) parts.push(model.state === "COMMITTED" ? "committed" : "not committed");
    else if (model.phases.r[1] !== null) parts.push("committing");
    else parts.push(remaining(model, now));
    const rerun = model.lost.length;
    if (rerun) parts.push(`${plural(rerun, "task")} taken back to run again`);
    return parts.filter(Boolean).join(" · ");
  }

  /** How long the maps will take at the rate so far; of reduces nothing honest can be said from bytes. */
  function remaining(model, now) {
    const all = model.planned.bytes_in;
    const read = model.status?.bytes_done || 0;
    const began = model.phases.m[0];
    if (began === null || model.phases.m[1] !== null || read < all * 0.02 || now - began < 2) return "";
    return `maps end in about ${seconds(((now - began) * (all - read)) / read)}`;
  }

  function banner(model) {
    const { end } = model;
    const host = byId("banner");
    const show = !!end && end.state !== "COMMITTED";
    host.hidden = !show;
    if (!show) return;
    fill(host, [end.state, end.error, end.task], () => [
      el("h2", {}, end.state === "FAILED" ? "The job failed" : "The job was stopped"),
      el("pre", { tabindex: "0" }, end.error || "No reason was given."),
      ...(model.find(end.task) ? [el("button", { type: "button", "data-task": end.task }, `The story of ${end.task}`)] : []),
    ]);
  }

  function drawFigures(model, now) {
    const { status, end, planned } = model;
    const totals = end?.totals || {};
    const accepted = accepts(model);
    const read = Math.max(status?.bytes_done || 0, accepted.bytes);
    const records = Math.max(status?.records_done || 0, accepted.records);
    const spent = end ? end.seconds ?? end.t : now;
    const rate = (rates) => (end ? null : recent(rates.perSecond(now), rates.width));
    const bytesRate = rate(model.bytes.m);
    const recordRate = rate(model.records.m);
    const mapped = Math.max(0.001, (model.phases.m[1] ?? now) - (model.phases.m[0] ?? 0));
    const failed = model.failures.length;
    const requests = (end?.requests || status?.requests)?.by_verb || {};
    const alive = [...model.workers.values()].filter((worker) => worker.gone === null);
    const slots = alive.reduce((sum, worker) => sum + worker.slots, 0);
    const figures = [
      ["Time", seconds(spent), end ? "from start to end" : "so far"],
      ["Input read", bytes(read), planned ? `of ${bytes(planned.bytes_in)}` : ""],
      ["Read rate", `${bytes(end ? read / mapped : bytesRate)}/s`, end ? "over the maps" : "last 10 s"],
      ["Records", brief(records), `${brief(end ? records / mapped : recordRate)}/s`],
      ["Workers", count(end ? model.workers.size : alive.length), slots ? plural(slots, "slot") : ""],
      ["Failed attempts", count(failed), failed ? "see Errors" : `of ${count(model.attempts.size)}`, failed > 0],
      ["Requests", brief(Object.values(requests).reduce((a, b) => a + b, 0)), dollars(end?.cost_usd ?? status?.cost_usd)],
    ];
    if (totals.records_out !== undefined) figures.splice(4, 0, ["Records out", brief(totals.records_out), ""]);
    fill(byId("figures"), figures, () => figures.map(([name, value, note, bad]) => el("div", { class: bad ? "bad" : "" },
      el("dt", {}, name), el("dd", {}, value), el("dd", { class: "soft small" }, note || "\u00a0"))));
  }

  /** What the accepted maps have read, from their own reports: it stands before the next sample comes. */
  function accepts(model) {
    let [read, records] = [0, 0];
    for (const { accepted } of model.maps) {
      if (!accepted) continue;
      read += accepted.done.bytes_in || 0;
      records += accepted.done.records_in || 0;
    }
    return { bytes: read, records };
  }

  function recent(values, width) {
    const last = values.slice(-Math.max(1, Math.round(SMOOTH_S / width)));
    return last.reduce((a, b) => a + b, 0) / last.length;
  }

  function drawWorkers(model, now) {
    const all = [...model.workers.values()];
    const shown = all.slice(0, WORKERS_SHOWN);
    const rows = shown.map((worker) => {
      const running = [...worker.running];
      const doing = running.slice(0, 4).map((attempt) => {
        const progress = model.progress(attempt);
        const part = progress?.bytes_total ? ` ${Math.min(99, Math.floor((100 * progress.bytes_done) / progress.bytes_total))} %` : "";
        const slow = model.isStraggler(attempt, now) ? ", slow" : "";
        return `${attempt.task.name}${attempt.backup ? " (backup)" : ""}${progress?.phase ? ` ${progress.phase}` : ""}${part}${slow}`;
      });
      if (running.length > 4) doing.push(`${running.length - 4} more`);
      const state = worker.gone !== null ? `gone at ${seconds(worker.gone)}` : doing.join(", ") || (model.end ? "–" : "idle");
      return [worker.label, worker.slots || worker.lanes.length, state, worker.accepted, worker.failed, worker.records];
    });
    fill(byId("workers"), [rows, all.length], () => [
      table(["Worker", "#Slots", "Now", "#Done", "#Failed", "#Records"],
        rows.map(([name, slots, state, done, failed, records]) => [name, count(slots), state, count(done), count(failed), brief(records)])),
      ...(all.length > shown.length ? [el("p", { class: "soft" }, `and ${count(all.length - shown.length)} more; the timeline has them all`)] : []),
      ...(all.length ? [] : [el("p", { class: "soft" }, "No worker has come yet.")]),
    ]);
  }

  /** A table; a heading that begins with # is of numbers. */
  function table(headings, rows) {
    const numeric = headings.map((heading) => heading.startsWith("#"));
    const cell = (tag, value, n, more = {}) => el(tag, { class: numeric[n] ? "number" : "", ...more }, value);
    return el("div", { class: "wide", tabindex: "0", role: "group", "aria-label": `Table of ${headings.map((each) => each.replace("#", "")).join(", ")}` },
      el("table", {}, el("thead", {}, el("tr", {}, headings.map((heading, n) => cell("th", heading.replace("#", ""), n, { scope: "col" })))),
        el("tbody", {}, rows.map((row) => el("tr", {}, row.map((value, n) => (n ? cell("td", value, n) : cell("th", value, n, { scope: "row" }))))))));
  }

  function drawShuffleWords(model) {
    const { shuffle, hot } = model;
    byId("shuffle-panel").hidden = !shuffle && !hot;
    if (shuffle) text("shuffle-text", globalThis.mrfast.shuffleText(shuffle));
    byId("hot").hidden = !hot?.keys?.length;
    if (!hot) return;
    fill(byId("hot-body"), hot, () => [
      table(["Key", "#Share", "#Bytes", "#Records", "#Partition"], (hot.keys || []).map((key) => [String(key.key),
        `${((key.share || 0) * 100).toFixed(1)} %`, bytes(key.bytes), brief(key.records), count(key.partition)])),
      ...(hot.error_bytes ? [el("p", { class: "soft small" }, `Each is exact to ${bytes(hot.error_bytes)}.`)] : []),
    ]);
    text("advice", hot.advice || "");
    byId("advice").hidden = !hot.advice;
  }

  function drawCounters(model) {
    const counters = Object.entries(model.end?.counters || model.status?.counters || {}).sort(([a], [b]) => (a < b ? -1 : 1));
    byId("counters-panel").hidden = !counters.length;
    fill(byId("counters"), counters, () => table(["Counter", "#Value"], counters.map(([name, value]) => [name, count(value)])));
  }

  function drawRequests(model) {
    const requests = model.end?.requests || model.status?.requests;
    const verbs = Object.keys(requests?.by_verb || {});
    byId("requests-panel").hidden = !verbs.length;
    if (!verbs.length) return;
    const cost = model.end?.cost_usd ?? model.status?.cost_usd;
    fill(byId("requests"), [requests, cost], () => {
      const rows = Object.entries(requests.by_phase || {}).map(([phase, sent]) => [phase, ...verbs.map((verb) => (sent[verb] ? count(sent[verb]) : "–"))]);
      rows.push(["all", ...verbs.map((verb) => count(requests.by_verb[verb]))]);
      const odd = Object.entries(requests.by_outcome || {}).filter(([outcome]) => outcome !== "ok");
      return [table(["Phase", ...verbs.map((verb) => `#${verb}`)], rows),
        el("p", { class: "soft" }, `${bytes(requests.bytes_up)} up, ${bytes(requests.bytes_down)} down; ${dollars(cost)} at the list price of S3.`,
          odd.length ? ` Not answered well: ${odd.map(([outcome, n]) => `${count(n)} ${outcome}`).join(", ")}.` : "")];
    });
  }

  /** Failures with the same message are one entry, the last to fail the job first. */
  function drawErrors(model) {
    const groups = new Map();
    const isFatal = (attempt) => attempt.failure.fatal || attempt.task.fatal;
    const fatal = (attempts) => (attempts.some(isFatal) ? 1 : 0);
    for (const attempt of model.failures) {
      const key = `${attempt.failure.kind}\n${attempt.failure.message}`;
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(attempt);
    }
    byId("errors-panel").hidden = !groups.size && !model.lost.length;
    text("errors-count", model.failures.length ? count(model.failures.length) : "");
    const list = [...groups.values()].sort((a, b) => fatal(b) - fatal(a)).slice(0, ERRORS_SHOWN);
    const open = new Set([...byId("errors").querySelectorAll("details[open]")].map((each) => each.dataset.task));
    const seen = byId("errors").childElementCount > 0;
    fill(byId("errors"), [list.map((each) => each.length), list.length, groups.size, model.lost.length, !!model.end], () => [
      ...list.map((attempts, n) => {
        const { failure, task, name } = attempts.find(isFatal) || attempts[0];
        const names = [...new Set(attempts.map((attempt) => attempt.task.name))];
        return el("details", { "data-task": name, open: seen ? open.has(name) : n === 0 },
          el("summary", {}, el("span", { class: "badge bad" }, fatal(attempts) ? "fatal" : failure.kind || "failed"),
            el("span", { class: "message" }, (failure.message || "It failed.").split("\n")[0]),
            el("span", { class: "soft" }, `${plural(attempts.length, "attempt")} of ${names.length > 1 ? plural(names.length, "task") : task.name}`)),
          failureBody(failure, (failure.message || "").includes("\n")),
          el("p", {}, names.slice(0, 20).map((name) => el("button", { type: "button", "data-task": name }, name)),
            names.length > 20 ? ` and ${count(names.length - 20)} more` : null));
      }),
      ...(groups.size > ERRORS_SHOWN ? [el("p", { class: "soft" }, `and ${count(groups.size - ERRORS_SHOWN)} other errors`)] : []),
      ...model.lost.slice(0, ERRORS_SHOWN).map((each) => el("p", { class: "note" },
        el("button", { type: "button", "data-task": each.task.name }, each.task.name), ` ${seconds(each.t)}: ${each.text}`)),
    ]);
  }


  let printedSeen = -1;
  function drawPrinted(model) {
    const { printed, printedLeftOut } = model;
    byId("printed-panel").hidden = !printed.length;
    if (printedSeen === printed.length + printedLeftOut) return;
    printedSeen = printed.length + printedLeftOut;
    const host = byId("printed");
    const atEnd = host.scrollTop + host.clientHeight > host.scrollHeight - 20;
    const lines = printed.map((each) => el("div", {}, el("span", { class: "from" }, `${each.task} ${each.worker ? model.worker(each.worker).label : ""}`), el("span", { class: "said" }, each.text)));
    if (printedLeftOut) lines.unshift(el("div", { class: "soft" }, `${plural(printedLeftOut, "earlier print")} not shown`));
    host.replaceChildren(...lines);
    if (atEnd) host.scrollTop = host.scrollHeight;
  }

  Object.assign(globalThis.mrfast, { drawHead, drawFigures, drawWorkers, drawShuffleWords, drawCounters, drawRequests, drawErrors,
    drawPrinted, STATE_TEXT });
})();
