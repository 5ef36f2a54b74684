// Ctrl+Enter (or Cmd+Enter) samples with the form that is shown. On a narrow screen, where the video is below the form,
// it is scrolled into view.
const isShown = (element) => element.offsetParent !== null;

document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  const button = [...document.querySelectorAll("button.sample")].find(isShown);
  if (button && !button.disabled) {
    event.preventDefault();
    button.click();
  }
});

document.addEventListener("click", (event) => {
  if (!event.target.closest("button.sample") || window.innerWidth > 760) return;
  const column = [...document.querySelectorAll(".stage-column")].find(isShown);
  setTimeout(() => column?.scrollIntoView({ behavior: "smooth", block: "start" }), 400);
});
