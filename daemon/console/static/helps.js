// Small helps: copy buttons, the theme without a reload, keys, menus that close, forms that follow a choice.

export function helps() {
  copying();
  theme();
  keys();
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.more[open]")) if (!menu.contains(event.target)) menu.open = false;
  });
  document.addEventListener("change", (event) => {
    const choice = event.target.closest("select");
    if (choice?.hasAttribute("data-submit")) choice.form.requestSubmit();
    if (choice?.dataset.goto) location.href = `${choice.dataset.goto}?${new URLSearchParams({ function: choice.value })}`;
  });
}

function copying() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
}

function theme() {
  const form = document.querySelector("[data-theme-switch]");
  const next = { light: "dark", dark: "auto", auto: "light" };
  form?.addEventListener("submit", (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    const chosen = button.value;
    // Where that is lost, on the way to another page for example, the theme is this page's alone.
    fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form, button)), redirect: "manual" }).catch(() => {});
    if (chosen === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    button.value = next[chosen];
    const told = chosen === "auto" ? "as the system" : chosen;
    button.title = `Theme: ${told}`;
    button.querySelector(".hidden-text").textContent = `Switch theme (now ${told})`;
  });
}

function keys() {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") for (const menu of document.querySelectorAll("details.more[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const wanted = [...document.querySelectorAll("[data-key]")].find((element) => element.dataset.key === event.key);
    if (wanted) {
      event.preventDefault();
      wanted.focus();
      wanted.select?.();
    }
  });
}
