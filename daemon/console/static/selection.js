// Ticking many jobs of a list: one box for all, and how many are ticked.

export function selections() {
  const form = document.getElementById("selection-form");
  const bar = form?.querySelector("[data-selection]");
  if (!bar) return;
  const all = bar.querySelector("[data-select-all]");
  const told = bar.querySelector("[data-selected]");
  const buttons = bar.querySelectorAll("button");
  const boxes = () => [...form.querySelectorAll("input[name=id]")];

  function tell() {
    const count = boxes().filter((box) => box.checked).length;
    bar.hidden = !boxes().length;
    told.textContent = count ? `${count} selected` : "Select all";
    all.checked = count > 0 && count === boxes().length;
    all.indeterminate = count > 0 && count < boxes().length;
    for (const button of buttons) button.disabled = !count;
  }

  all.addEventListener("change", () => {
    for (const box of boxes()) box.checked = all.checked;
    tell();
  });
  form.addEventListener("change", tell);
  document.addEventListener("arqd:replaced", tell);
  tell();
}
