"use strict";
/* Where the events come from (a server that pushes them, or this file itself), and when what is drawn. */
(() => {
  const M = globalThis.mrfast;
  const { byId, text, seconds } = M;
  const WORDS_MS = 400; // tables and words change no more often than one can read
  const RETRY_MS = 3000;

  let model = new M.Model();
  let heardAt = 0; // when the last event came, by this browser's clock
  let live = false;
  let connection = "";
  let wordsAt = -WORDS_MS;
  let dirty = false;

  /** The job's time: it goes on between two events, but not when nobody tells us of it. */
  function now() {
    if (!live || model.end || connection === "lost") return model.t;
    return model.t + Math.min(5, (performance.now() - heardAt) / 1000);
  }

  // Pictures

  const story = new M.Story(() => mark(null));
  const grids = {
    m: new M.Grid(byId("maps"), "m", "Map tasks", (task) => tell(task), (task) => tell(task, true)),
    r: new M.Grid(byId("reduces"), "r", "Reduce tasks", (task) => tell(task), (task) => tell(task, true)),
  };
  const timeline = new M.Timeline(byId("timeline"), (task) => tell(task));
  const legend = new M.Legend(byId("legend"), next);

  function tell(task, focus = false) {
    story.open(task, model, now(), focus);
    mark(task);
  }

  function mark(task) {
    timeline.selected = task;
    timeline.draw();
    for (const grid of Object.values(grids)) {
      const index = task && task.kind === grid.kind ? task.index : -1;
      if (grid.selected !== index) grid.select(index, false);
    }
  }

  /** The next task in a state, behind the one that is selected. */
  function next(state) {
    const all = [...model.maps, ...model.reduces];
    const at = story.task ? all.indexOf(story.task) : -1;
    for (let n = 1; n <= all.length; n++) {
      const task = all[(at + n) % all.length];
      if (state === "mishap" ? task.state === "done" && task.trouble : task.state === state) return tell(task);
    }
  }

  function draw(everything = false) {
    dirty = false;
    const at = now();
    M.drawThroughput(byId("throughput"), model, at);
    timeline.update(model, at);
    grids.m.update(model.maps);
    grids.r.update(model.reduces);
    legend.update(model);
    M.drawHead(model, at);
    M.drawFigures(model, at);
    if (!everything && performance.now() - wordsAt < WORDS_MS) {
      dirty = true; // what is told in words waits for its turn
      return;
    }
    wordsAt = performance.now();
    text("throughput-text", M.throughputText(model, at));
    M.drawShuffleWords(model);
    if (model.shuffle) M.drawShuffle(byId("shuffle"), model);
    M.drawWorkers(model, at);
    M.drawCounters(model);
    M.drawRequests(model);
    M.drawErrors(model);
    M.drawPrinted(model);
    text("left-out", model.leftOut ? `${M.count(model.leftOut)} events are not in this log: it was full.` : "");
    story.update(model, at);
    announce();
  }

  let said = "";
  function announce() {
    const words = `Job ${M.STATE_TEXT[model.state] || model.state}`;
    if (words === said) return;
    said = words;
    text("live", words);
  }

  // Where the events come from

  function say(state, words) {
    connection = state;
    byId("connection").dataset.state = state;
    text("connection", words);
  }

  function feed(lines) {
    for (const line of lines.split("\n")) {
      if (!line) continue;
      let event;
      try {
        event = JSON.parse(line);
      } catch {
        continue; // one bad line must not take the page with it
      }
      if (event.e === "job" && model.job) restart();
      model.apply(event);
    }
    heardAt = performance.now();
    dirty = true;
  }

  function restart() {
    model = new M.Model();
    story.task && story.close();
  }

  function listen() {
    live = true;
    say("waiting", "connecting");
    const source = new EventSource("events");
    source.onopen = () => say("live", "live");
    source.onmessage = (message) => {
      feed(message.data);
      if (connection !== "live") say("live", "live");
      if (model.end) {
        source.close();
        say("ended", "the job has ended; this page stays");
      }
    };
    source.onerror = () => {
      if (model.end) return;
      say("lost", `connection lost; last heard of the job at ${seconds(model.t)}, trying again`);
      text("live", "Connection lost");
      said = "";
      dirty = true;
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, RETRY_MS);
    };
  }

  /** The events of a report: base64 of gzip of lines. */
  async function unpack(packed) {
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  // Light and dark

  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem("mrfast-theme");
  } catch { /* storage may be forbidden, as for a file */ }

  function theme() {
    document.documentElement.dataset.theme = chosen || (dark.matches ? "dark" : "light");
    text("theme", document.documentElement.dataset.theme === "dark" ? "Light" : "Dark");
    M.forgetColours();
    draw(true);
  }

  byId("theme").addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("mrfast-theme", chosen);
    } catch { /* then it holds for this view */ }
    theme();
  });
  dark.addEventListener("change", theme);

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-task]");
    const task = button && model.find(button.dataset.task);
    if (task) tell(task, true);
  });
  byId("find").addEventListener("submit", (event) => {
    event.preventDefault();
    const task = model.find(byId("find-name").value);
    text("find-answer", task ? "" : "no such task");
    if (task) tell(task, true);
  });
  for (const [id, act] of [["zoom-in", () => timeline.zoom(0.5)], ["zoom-out", () => timeline.zoom(2)], ["zoom-all", () => timeline.reset()]]) {
    byId(id).addEventListener("click", act);
  }
  addEventListener("resize", () => { dirty = true; });

  let drawnAt = 0;
  function frame(at) {
    // Between events only the running bars grow: twice a second is enough for them.
    if (at - drawnAt > (dirty ? 100 : 500) && (dirty || (live && !model.end && connection === "live"))) {
      drawnAt = at;
      draw();
    }
    requestAnimationFrame(frame);
  }

  async function start() {
    const embedded = byId("events");
    if (embedded) {
      say("report", "report");
      feed(await unpack(JSON.parse(embedded.textContent)));
    } else listen();
    theme();
    requestAnimationFrame(frame);
  }

  M.page = { feed, get model() { return model; } };
  start();
})();
