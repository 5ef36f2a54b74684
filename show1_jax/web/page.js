// Ctrl+Enter (or Cmd+Enter) samples with the form that is shown.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  const button = [...document.querySelectorAll("button.sample")].find((one) => one.offsetParent !== null);
  if (button && !button.disabled) {
    event.preventDefault();
    document.activeElement?.dispatchEvent(new Event("change", { bubbles: true }));
    button.click();
  }
});
