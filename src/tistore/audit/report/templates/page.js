"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("pickers");
  const panel = document.getElementById("numbers");
  const STEPS = 12, UNKNOWN = -32768;

  const unpack = (text) => {
    const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
    return new Int16Array(bytes.buffer);
  };
  const unpackReading = (given) => given && {
    scores: unpack(given.scores), surprisal: unpack(given.surprisal), norm: given.norm,
  };
  const responses = [...document.querySelectorAll(".tokens")].map((box, number) => ({
    box, n: data.responses[number].n, at: data.responses[number].at,
    marks: [...box.querySelectorAll("i")],
    map: box.parentElement.querySelector(".minimap"),
    own: unpackReading(data.responses[number].own),
    replay: unpackReading(data.responses[number].replay),
  }));
  const places = new Map();
  responses.forEach((one, number) => one.marks.forEach((mark, at) => places.set(mark, [number, at])));

  const picked = () => ({
    view: form.elements.view.value, trait: form.elements.trait.value, layer: form.elements.layer.value,
  });
  const columnOf = (trait, layer) =>
    data.columns.findIndex((one) => one.trait === trait && one.layer === layer);
  const scoreOf = (reading, response, column, at) => {
    if (!reading || column < 0) return NaN;
    const value = reading.scores[column * response.n + at];
    return value === UNKNOWN ? NaN : value / 100;
  };
  const valueOf = (response, view, column, at) => {
    const own = scoreOf(response.own, response, column, at);
    if (view === "own") return own;
    const replay = scoreOf(response.replay, response, column, at);
    return view === "replay" ? replay : own - replay;
  };
  const stepOf = (value) =>
    Math.max(-STEPS, Math.min(STEPS, Math.round(value / data.limit * STEPS)));
  const nameOf = (value) => {
    if (Number.isNaN(value)) return "unread";
    const step = stepOf(value);
    return step === 0 ? "zero" : (step > 0 ? "p" : "n") + Math.abs(step);
  };

  let cursor = null, values = [];
  const paint = () => {
    const { view, trait, layer } = picked();
    const column = columnOf(trait, layer);
    values = responses.map((response) =>
      response.marks.map((_, at) => valueOf(response, view, column, at)));
    responses.forEach((response, number) => {
      response.marks.forEach((mark, at) => { mark.className = nameOf(values[number][at]); });
      paintMap(response, values[number]);
    });
    if (cursor) cursor.classList.add("here");
  };
  const paintMap = (response, own) => {
    const colours = response.map.getContext("2d");
    const width = response.map.width / Math.max(own.length, 1);
    colours.clearRect(0, 0, response.map.width, response.map.height);
    own.forEach((_, at) => {
      colours.fillStyle = getComputedStyle(response.marks[at]).backgroundColor;
      colours.fillRect(at * width, 0, Math.ceil(width), response.map.height);
    });
    response.map.hidden = false;
  };

  const cell = (row, text, name) => {
    const made = document.createElement(name || "td");
    made.textContent = text;
    row.append(made);
    return made;
  };
  const write = (value) => Number.isNaN(value) ? "–" :
    (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(2);
  const plain = (packed, at) => {
    const value = packed ? packed[at] : UNKNOWN;
    return value === UNKNOWN ? "–" : (value / 100).toFixed(2);
  };
  const show = (mark) => {
    const [number, at] = places.get(mark);
    const response = responses[number];
    const { trait, layer } = picked();
    const table = document.createElement("table");
    const head = table.insertRow();
    ["token " + response.at[at], "organism", "replay", "difference"].forEach((one) => cell(head, one, "th"));
    for (const column of data.columns.filter((one) => one.layer === layer)) {
      const row = table.insertRow();
      if (column.trait === trait) row.className = "picked";
      const place = columnOf(column.trait, layer);
      cell(row, column.trait, "th");
      for (const view of ["own", "replay", "difference"]) {
        cell(row, write(valueOf(response, view, place, at))).className = "number";
      }
    }
    const more = [
      ["surprisal, nats", (reading) => plain(reading && reading.surprisal, at)],
      ["norm", (reading) => reading && reading.norm[at] !== null ? String(reading.norm[at]) : "–"],
    ];
    for (const [name, read] of more) {
      const row = table.insertRow();
      cell(row, name, "th");
      cell(row, read(response.own)).className = "number";
      cell(row, read(response.replay)).className = "number";
      cell(row, "");
    }
    panel.replaceChildren(table);
    panel.hidden = false;
    const where = mark.getBoundingClientRect();
    const left = Math.min(where.left, document.documentElement.clientWidth - panel.offsetWidth - 8);
    const below = where.bottom + 6 + panel.offsetHeight < window.innerHeight;
    const top = below ? where.bottom + 6 : where.top - panel.offsetHeight - 6;
    panel.style.left = Math.max(8, left) + window.scrollX + "px";
    panel.style.top = Math.max(0, top + window.scrollY) + "px";
  };
  const hide = () => { panel.hidden = true; };
  const move = (mark) => {
    if (cursor) cursor.classList.remove("here");
    cursor = mark;
    cursor.classList.add("here");
    cursor.scrollIntoView({ block: "center" });
    show(cursor);
  };

  const isSpike = (number, at) => Math.abs(values[number][at]) >= data.limit / 2 &&
    !(at > 0 && Math.abs(values[number][at - 1]) >= data.limit / 2);
  const seek = (direction) => {
    const spikes = [];
    responses.forEach((response, number) => response.marks.forEach((mark, at) => {
      if (isSpike(number, at)) spikes.push(mark);
    }));
    if (!spikes.length) return;
    const after = (mark) => cursor === null || (direction > 0
      ? cursor.compareDocumentPosition(mark) & Node.DOCUMENT_POSITION_FOLLOWING
      : cursor.compareDocumentPosition(mark) & Node.DOCUMENT_POSITION_PRECEDING);
    const ordered = direction > 0 ? spikes : spikes.reverse();
    move(ordered.find(after) || ordered[0]);
  };
  const step = (direction) => {
    const [number, at] = cursor ? places.get(cursor) : [0, -1];
    const next = responses[number].marks[at + direction];
    if (next) move(next);
  };

  form.addEventListener("change", paint);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("pointerover", (event) => {
    if (places.has(event.target)) show(event.target);
    else if (!event.target.closest || !event.target.closest(".tokens")) hide();
  });
  document.addEventListener("click", (event) => {
    if (places.has(event.target)) move(event.target);
  });
  document.addEventListener("keydown", (event) => {
    const typing = ["SELECT", "INPUT", "TEXTAREA"].includes(event.target.tagName);
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n") seek(1);
    else if (event.key === "p") seek(-1);
    else if (event.key === "Escape") hide();
    else if (event.target.closest(".tokens") || cursor) {
      if (event.key === "ArrowRight") step(1);
      else if (event.key === "ArrowLeft") step(-1);
      else return;
      event.preventDefault();
    }
  });
  document.documentElement.classList.add("scripted");
  form.hidden = false;
  paint();
})();
