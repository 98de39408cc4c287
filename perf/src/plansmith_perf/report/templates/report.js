"use strict";
(() => {
  const figures = document.getElementById("figures").textContent;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 40rem)");
  // A finger that drags across a plot wants to scroll the page.
  const coarse = window.matchMedia("(pointer: coarse)");
  const root = document.documentElement;
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

  const themed = () => {
    const styles = window.getComputedStyle(root);
    return JSON.parse(figures, (key, value) => {
      const name = key === "color" && typeof value === "string" ? /^var\((--[a-z0-9-]+)\)$/.exec(value) : null;
      return name ? styles.getPropertyValue(name[1]).trim() : value;
    });
  };

  const dressed = (layout) => {
    const styles = window.getComputedStyle(root);
    const color = (name) => styles.getPropertyValue(name).trim();
    const small = narrow.matches;
    const result = {
      ...layout,
      autosize: true,
      dragmode: coarse.matches ? false : "zoom",
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: small ? 11 : 13, color: color("--text") },
      margin: { l: small ? 44 : 60, r: small ? 10 : 20, t: 16, b: small ? 44 : 50 },
      hoverlabel: { bgcolor: color("--surface"), bordercolor: color("--grid"), font: { color: color("--text") } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--muted"), activecolor: color("--text"), orientation: "v" },
    };
    for (const name of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
      result[name] = { gridcolor: color("--grid"), linecolor: color("--muted"), zeroline: false, fixedrange: coarse.matches, ...layout[name] };
    }
    return result;
  };

  const draw = () => {
    for (const [name, figure] of Object.entries(themed())) {
      const quiet = { ...config, displayModeBar: narrow.matches || coarse.matches ? false : "hover" };
      window.Plotly.react(document.getElementById(name), figure.data, dressed(figure.layout), quiet);
    }
  };

  let folded = [];
  window.addEventListener("beforeprint", () => {
    root.dataset.print = "";
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((details) => { details.open = true; });
    draw();
  });
  window.addEventListener("afterprint", () => {
    delete root.dataset.print;
    folded.forEach((details) => { details.open = false; });
    draw();
  });
  for (const query of [dark, narrow, coarse]) {
    query.addEventListener("change", draw);
  }
  draw();
})();
