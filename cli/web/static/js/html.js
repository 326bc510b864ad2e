// What components are written with, in one place.
import { h, render } from "../vendor/preact.js";
import htm from "../vendor/htm.js";

export { render };
export { useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/hooks.js";
export { computed, signal } from "../vendor/signals.js";
export const html = htm.bind(h);
