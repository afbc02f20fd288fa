// Whoever has no mouse scrolls a wide box once it can have the focus. The theme's script looks once and too early.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const boxes = ".cell_output > .output, pre, .pst-scrollable-table-container, div.math";
  const observer = new ResizeObserver((changes) => {
    for (const { target } of changes) {
      const box = target.closest(boxes);
      if (box) box.tabIndex = box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight ? 0 : -1;
    }
  });
  for (const box of document.querySelectorAll(`${boxes}, :is(${boxes}) > *`)) observer.observe(box);
});
