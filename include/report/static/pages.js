// The page Models: starts runs through Airflow's REST API with the session of the user, and talks to servers.
"use strict";

const root = document.body.dataset.root;
const api = `${root}/api/v2`;
const POLL_MS = 3000;
const MEASURED_S = 0.2; // pieces that came within less were sent at once
const OVER = ["success", "failed"];

class Refusal extends Error {}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(`${api}${path}`, { credentials: "same-origin", ...options });
  } catch {
    throw new Refusal("Airflow does not answer. Is the web server running?");
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  throw new Refusal(refusal(response.status, body.detail));
}

function send(method, body) {
  return { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
}

function refusal(status, detail) {
  const said = typeof detail === "string" ? detail : (detail ?? []).map((one) => one.msg).join("; ");
  if (status === 401) return "Your session has ended. Log in again, then repeat this.";
  if (status === 403) return "You may not do this: Airflow does not let your user start runs of this DAG, or unpause it (403).";
  if (status === 404) return `Airflow does not know this DAG (404). ${said}`;
  return `Airflow refused the run (${status}). ${said}`;
}

// The frame around this page may not be navigated from inside; a link of the surrounding page may.
function openInAirflow(href) {
  const surrounding = window.parent.document;
  const link = surrounding.createElement("a");
  link.href = href;
  surrounding.body.append(link);
  link.click();
  link.remove();
}

function runLink(dag, run) {
  const link = document.createElement("a");
  link.href = `${root}/dags/${encodeURIComponent(dag)}/runs/${encodeURIComponent(run)}`;
  link.textContent = run;
  link.addEventListener("click", (event) => {
    if (window.parent === window) return;
    event.preventDefault();
    openInAirflow(link.href);
  });
  return link;
}

// ---- Who promoted a release: the run's own record, which the user may or may not read.

async function nameRun(place) {
  const id = place.dataset.run;
  const found = await ask(`/dags/~/dagRuns?limit=10&run_id_pattern=${encodeURIComponent(id)}`);
  const run = found.dag_runs.find((one) => one.dag_run_id === id);
  if (!run) return;
  place.replaceChildren(runLink(run.dag_id, id));
  const user = place.dataset.by || run.triggering_user_name;
  if (user) place.prepend(`${user}, `);
}

for (const place of document.querySelectorAll("[data-run]")) nameRun(place).catch(() => {});

// ---- Buttons that start runs.

const dialog = document.getElementById("confirm");

function confirmed(button) {
  document.getElementById("confirm-title").textContent = button.dataset.title;
  document.getElementById("confirm-text").textContent = button.dataset.text;
  document.getElementById("confirm-dag").textContent = button.dataset.dag;
  const params = document.getElementById("confirm-conf");
  params.value = JSON.stringify(JSON.parse(button.dataset.conf), null, 2);
  params.readOnly = !button.dataset.editable;
  document.getElementById("confirm-params").open = !params.readOnly;
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "start" && params.value), { once: true });
  });
}

// A list of runs shows their ids, so an id names what the run is about.
function runId(dag, conf) {
  const what = conf.served_name || conf.name || (conf.model || dag).split("/").pop();
  return `${what}__${new Date().toISOString()}`.replace(/[^A-Za-z0-9_.~:+-]/g, "-");
}

async function start(dag, conf) {
  const path = `/dags/${encodeURIComponent(dag)}`;
  if ((await ask(path)).is_paused) {
    await ask(`${path}?update_mask=is_paused`, send("PATCH", { is_paused: false }));
  }
  return (await ask(`${path}/dagRuns`, send("POST", { dag_run_id: runId(dag, conf), logical_date: null, conf }))).dag_run_id;
}

function say(place, state, ...content) {
  place.hidden = false;
  place.dataset.state = state;
  place.replaceChildren(...content);
}

async function follow(dag, run, place) {
  let [state, note] = ["queued", ""];
  while (!OVER.includes(state)) {
    say(place, state, "Run ", runLink(dag, run), ` of ${dag}: ${state}.`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    ({ state, note } = await ask(`/dags/${encodeURIComponent(dag)}/dagRuns/${encodeURIComponent(run)}`));
  }
  const advice = state === "success" ? " Reload the page to see what changed." : " Its failed task says more.";
  const [told] = (note ?? "").split("\n");
  say(place, state, "Run ", runLink(dag, run), ` of ${dag}: ${state}. ${told}${told && "."}${advice}`);
}

function parsed(params) {
  try {
    return JSON.parse(params);
  } catch (error) {
    throw new Refusal(`The params are not JSON: ${error.message}`);
  }
}

async function act(button) {
  const params = await confirmed(button);
  if (!params) return;
  const place = button.closest(".card").querySelector(".outcome");
  button.disabled = true;
  say(place, "queued", "Starting the run…");
  try {
    const { dag } = button.dataset;
    await follow(dag, await start(dag, parsed(params)), place);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    say(place, "failed", error.message);
  } finally {
    button.disabled = false;
  }
}

for (const button of document.querySelectorAll("button[data-dag]")) {
  button.addEventListener("click", () => act(button));
}

// ---- The playground: one question to each server, and the answers as they come.

const playground = document.getElementById("playground");

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part.replace(/^data: /, ""));
  }
}

async function question(side, body, signal) {
  const [answer, measured] = [side.querySelector(".answer"), side.querySelector(".measured")];
  answer.replaceChildren();
  side.classList.remove("failed");
  measured.textContent = "…";
  const began = performance.now();
  const seconds = () => (performance.now() - began) / 1000;
  let first = null;
  let pieces = 0;
  const fail = (text) => {
    side.classList.add("failed");
    measured.textContent = text;
  };
  try {
    const response = await fetch(playground.action, { ...send("POST", body), credentials: "same-origin", signal });
    if (!response.ok) {
      const { detail } = await response.json().catch(() => ({}));
      if (response.status === 401) return fail(refusal(401));
      return fail(typeof detail === "string" ? detail : `The web server refused this (${response.status}).`);
    }
    for await (const event of events(response)) {
      if (event.error) return fail(event.error);
      first ??= seconds();
      pieces += 1;
      answer.append(event.text);
    }
  } catch (error) {
    return fail(error.name === "AbortError" ? "Stopped." : "The connection to the web server broke.");
  }
  if (first === null) return fail("The answer is empty.");
  const rest = seconds() - first;
  const speed = pieces > 1 && rest > MEASURED_S ? `, then ${((pieces - 1) / rest).toFixed(1)} pieces/s` : "";
  measured.textContent = `First text after ${(first * 1000).toFixed(0)} ms${speed}, ${seconds().toFixed(1)} s in all.`;
}

async function play(event) {
  event.preventDefault();
  const { prompt, max_tokens, temperature, stop } = playground.elements;
  const submit = playground.querySelector(".primary");
  const control = new AbortController();
  const abort = () => control.abort();
  stop.addEventListener("click", abort);
  [submit.disabled, stop.disabled] = [true, false];
  const asked = { prompt: prompt.value, max_tokens: max_tokens.valueAsNumber, temperature: temperature.valueAsNumber };
  const sides = [...playground.querySelectorAll("[data-to]")];
  await Promise.all(sides.map((side) => question(side, { ...asked, to: side.dataset.to }, control.signal)));
  [submit.disabled, stop.disabled] = [false, true];
  stop.removeEventListener("click", abort);
}

playground?.addEventListener("submit", play);
