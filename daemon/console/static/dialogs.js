// Links that ask something (data-dialog) lead to a page of their own; here that page's question opens as a dialog instead.

let dialog = null;

export function openDialogs() {
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-dialog]");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
      event.preventDefault();
      const menu = link.closest("details.more");
      if (menu) {
        menu.open = false;
        // There one is again when the dialog is closed.
        menu.querySelector("summary").focus();
      }
      const url = new URL(link.href);
      if (!url.searchParams.has("back")) url.searchParams.set("back", here());
      if (!(await load(url))) location.href = link.href;
    }
    if (event.target.closest("dialog [data-close]") || event.target === dialog) {
      event.preventDefault();
      dialog.close();
    }
  });
  document.addEventListener("submit", async (event) => {
    // Many jobs of a list: what is asked about them (data-ask) is asked here, too.
    const button = event.submitter;
    if (button?.dataset.ask) {
      event.preventDefault();
      const url = new URL(button.dataset.ask, location.href);
      for (const id of new FormData(event.target).getAll("id")) url.searchParams.append("id", id);
      url.searchParams.set("back", here());
      if (!(await load(url))) location.href = url;
      return;
    }
    const form = event.target.closest("dialog form[data-preview]");
    if (!form) return;
    event.preventDefault();
    const url = new URL(form.action);
    url.search = new URLSearchParams(new FormData(form)).toString();
    url.searchParams.set("back", here());
    const focused = document.activeElement?.id;
    await load(url);
    if (focused) document.getElementById(focused)?.focus();
  });
}

function here() {
  return location.pathname + location.search;
}

async function load(url) {
  try {
    const answer = await fetch(url, { headers: { "X-Arqd-Part": "1" }, cache: "no-store" });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const ask = page.getElementById("ask");
    if (!ask) return false;
    if (!dialog) {
      dialog = document.createElement("dialog");
      dialog.setAttribute("aria-labelledby", "ask-title");
      document.body.append(dialog);
    }
    dialog.replaceChildren(document.importNode(ask, true));
    if (!dialog.open) dialog.showModal();
    return true;
  } catch {
    return false;
  }
}
