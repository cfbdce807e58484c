// Numbers that move: the server tells that something has changed (server-sent events), then the parts of this page that
// are marked data-live are fetched anew, as the server renders them.

const PAUSE = 400; // ms after an event: what belongs together comes together
const SELDOM = 1000; // ms at least between two fetches
const ALWAYS = 15; // s after which times on the page are stale even if nothing happened

const body = document.body;
const status = document.getElementById("live");
const banner = document.getElementById("lost");
let source = null;
let timer = null;
let last = 0;
let fetching = false;
let again = false;

export function watch() {
  const families = body.dataset.watch;
  if (!families || !window.EventSource) return;
  connect(families);
  addEventListener("pagehide", () => source.close());
  const every = Number(body.dataset.every || ALWAYS) * 1000;
  setInterval(() => { if (!document.hidden) soon(0); }, every);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) soon(0); });
}

function connect(families) {
  const query = new URLSearchParams({ family: families });
  if (body.dataset.watchJob) query.set("job", body.dataset.watchJob);
  source = new EventSource(`${body.dataset.base}/changes?${query}`);
  source.addEventListener("open", () => { show("live"); soon(0); });
  source.addEventListener("changed", () => soon(PAUSE));
  source.addEventListener("error", () => {
    show("lost");
    // The browser tries again by itself unless the answer was a refusal; then it is up to us. The page itself may be
    // refused, too: when the session has ended that leads to the login.
    if (source.readyState === EventSource.CLOSED) {
      soon(0);
      setTimeout(() => { source.close(); connect(families); }, 3000);
    }
  });
}

function show(state) {
  status.dataset.state = state;
  if (state === "live") status.textContent = "Live";
  if (state === "lost") status.textContent = "Connection lost";
  banner.hidden = state !== "lost";
}

function soon(pause) {
  if (timer || document.hidden) return;
  const wait = Math.max(pause, last + SELDOM - Date.now());
  timer = setTimeout(() => { timer = null; refresh(); }, wait);
}

async function refresh() {
  if (fetching) { again = true; return; }
  fetching = true;
  last = Date.now();
  try {
    const answer = await fetch(location.href, { headers: { "X-Arqd-Part": "1" }, cache: "no-store" });
    if (answer.redirected) { location.reload(); return; }
    const text = await answer.text();
    if (answer.status === 404) { location.reload(); return; }
    if (!answer.ok) throw new Error(answer.statusText);
    replace(new DOMParser().parseFromString(text, "text/html"));
    if (source.readyState === EventSource.OPEN) show("live");
  } catch {
    show("lost");
    soon(3000);
  } finally {
    fetching = false;
    if (again) { again = false; soon(PAUSE); }
  }
}

function replace(fresh) {
  // A click is a press and a release at the same place: while something is pressed, all stays where it is.
  if (document.querySelector(":active")) { soon(PAUSE); return; }
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(part.id);
    if (!next || next.innerHTML === part.dataset.was || isRead(part)) continue;
    if (part.dataset.was === undefined && next.innerHTML === part.innerHTML) continue;
    part.dataset.was = next.innerHTML;
    keep(part, () => part.replaceChildren(...document.importNode(next, true).childNodes));
  }
  document.dispatchEvent(new CustomEvent("arqd:replaced"));
}

// Text somebody is selecting stays.
function isRead(part) {
  const selection = getSelection();
  return selection && !selection.isCollapsed && part.contains(selection.anchorNode);
}

// What somebody has ticked, opened, scrolled or focused is the same afterwards.
function keep(part, change) {
  const ticked = new Set([...part.querySelectorAll("input:checked")].map((input) => input.value));
  const opened = [...part.querySelectorAll("details[open][id]")].map((details) => details.id);
  const scrolled = [...part.querySelectorAll("pre, .log, .table-box, .scroll"), part].map((box) => [box.scrollLeft, box.scrollTop]);
  const focused = part.contains(document.activeElement) ? address(document.activeElement) : null;
  change();
  for (const input of part.querySelectorAll("input[type=checkbox]")) input.checked = ticked.has(input.value);
  for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
  [...part.querySelectorAll("pre, .log, .table-box, .scroll"), part].forEach((box, at) => {
    if (scrolled[at]) [box.scrollLeft, box.scrollTop] = scrolled[at];
  });
  if (focused) part.querySelectorAll(focused.selector)[focused.at]?.focus({ preventScroll: true });
}

function address(element) {
  const name = element.tagName.toLowerCase();
  for (const attribute of ["id", "href", "value", "title"]) {
    if (element.hasAttribute(attribute)) {
      const selector = `${name}[${attribute}="${CSS.escape(element.getAttribute(attribute))}"]`;
      return { selector, at: [...element.closest("[data-live]").querySelectorAll(selector)].indexOf(element) };
    }
  }
  return { selector: name, at: [...element.closest("[data-live]").querySelectorAll(name)].indexOf(element) };
}
