"use strict";
// Shows meshes that the user can turn, each in a canvas. A z-buffer in plain JavaScript draws them: a predicted
// mesh of 1280 faces takes a few milliseconds, all views share one buffer, and no WebGL is needed. Only meshes
// on the screen are decoded and drawn.
(() => {
  const DISTANCE = 2.732, HALF_WIDTH = Math.tan(Math.PI / 12);  // the camera of the CVPR18 images
  const START = {azimuth: Math.PI / 6, elevation: Math.PI / 6, zoom: 1.3};
  const CLAY = [219, 168, 115], RED = [230, 40, 40];
  const LIGHT = [0.37, 0.56, 0.74];  // unit direction to the light in camera coordinates: right, up, towards the viewer
  const OVERSAMPLING = 2;

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const faces = new Uint32Array(bytes(document.querySelector("main").dataset.faces));
  const together = document.getElementById("together"), backs = document.getElementById("backs");
  const buffer = document.createElement("canvas");  // shared by all views
  const items = [];

  /** Transforms vertices: rows of (x in pixels, y in pixels, 1 / depth), and rows of camera coordinates. */
  function project(vertices, look, size) {
    const ca = Math.cos(look.azimuth), sa = Math.sin(look.azimuth);
    const ce = Math.cos(look.elevation), se = Math.sin(look.elevation);
    const screen = new Float32Array(vertices.length), camera = new Float32Array(vertices.length);
    for (let i = 0; i < vertices.length; i += 3) {
      const x = ca * vertices[i] + sa * vertices[i + 2], z = ca * vertices[i + 2] - sa * vertices[i];
      const y = ce * vertices[i + 1] - se * z, near = se * vertices[i + 1] + ce * z;
      const inverse = 1 / Math.max(DISTANCE - near, 0.1);
      const scale = look.zoom * inverse / HALF_WIDTH * size / 2;
      screen[i] = size / 2 + x * scale;
      screen[i + 1] = size / 2 - y * scale;
      screen[i + 2] = inverse;
      camera.set([x, y, near], i);
    }
    return [screen, camera];
  }

  /** The zoom of START, or less where from some side, at START's elevation, a corner would leave the picture. */
  function fitting(vertices) {
    let widest = 0;
    for (let k = 0; k < 24; k++) {
      const [screen] = project(vertices, {...START, azimuth: k * Math.PI / 12, zoom: 1}, 2);
      for (let i = 0; i < screen.length; i += 3) {
        widest = Math.max(widest, Math.abs(screen[i] - 1), Math.abs(screen[i + 1] - 1));
      }
    }
    return Math.min(START.zoom, 0.97 / widest);
  }

  /** The light on a face, on both sides, and whether the back is seen. Faces are counterclockwise from outside. */
  function shade(c, i, j, k) {
    const ux = c[j] - c[i], uy = c[j + 1] - c[i + 1], uz = c[j + 2] - c[i + 2];
    const vx = c[k] - c[i], vy = c[k + 1] - c[i + 1], vz = c[k + 2] - c[i + 2];
    const n = [uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx];
    const towards = n[0] * -c[i] + n[1] * -c[i + 1] + n[2] * (DISTANCE - c[i + 2]) < 0 ? -1 : 1;
    const cosine = towards * (n[0] * LIGHT[0] + n[1] * LIGHT[1] + n[2] * LIGHT[2]) / (Math.hypot(...n) || 1);
    return [0.4 + 0.65 * Math.max(0, cosine), towards < 0];
  }

  /** The colour at a place of an array, in a light, as a little-endian RGBA pixel. */
  function pixel(colours, at, light) {
    const r = Math.min(255, colours[at] * light), g = Math.min(255, colours[at + 1] * light);
    const b = Math.min(255, colours[at + 2] * light);
    return (255 << 24 | b << 16 | g << 8 | r) >>> 0;
  }

  /**
   * Draws a mesh: Uint32 pixels, transparent where there is no face. With colours, n * n for each face, a face shows
   * in cell [p, q] the colour where the weights of its second and third corner are from p / n and q / n on.
   */
  function rasterize(vertices, colours, look, size, pixels) {
    const n = colours ? Math.round(Math.sqrt(colours.length / faces.length)) : 0;
    const [s, camera] = project(vertices, look, size);
    const depths = new Float32Array(size * size);  // 1 / depth is linear on the screen; 0 is infinitely far
    for (let f = 0; f < faces.length; f += 3) {
      const i = 3 * faces[f], j = 3 * faces[f + 1], k = 3 * faces[f + 2];
      const area = (s[j] - s[i]) * (s[k + 1] - s[i + 1]) - (s[j + 1] - s[i + 1]) * (s[k] - s[i]);
      if (!area) continue;
      const left = Math.max(0, Math.ceil(Math.min(s[i], s[j], s[k]) - 0.5));
      const right = Math.min(size - 1, Math.floor(Math.max(s[i], s[j], s[k]) - 0.5));
      const top = Math.max(0, Math.ceil(Math.min(s[i + 1], s[j + 1], s[k + 1]) - 0.5));
      const bottom = Math.min(size - 1, Math.floor(Math.max(s[i + 1], s[j + 1], s[k + 1]) - 0.5));
      const [light, back] = shade(camera, i, j, k), first = f * n * n;
      const plain = backs.checked && back ? RED : colours ? null : CLAY;
      const color = plain ? pixel(plain, 0, light) : pixel(colours, first, light);
      // Changes of the weights of j and k per pixel to the right.
      const jx = (s[k + 1] - s[i + 1]) / area, kx = (s[i + 1] - s[j + 1]) / area;
      for (let y = top; y <= bottom; y++) {
        const dx = left + 0.5 - s[i], dy = y + 0.5 - s[i + 1];
        let wj = dx * jx - dy * (s[k] - s[i]) / area, wk = dx * kx + dy * (s[j] - s[i]) / area;
        for (let x = left, at = y * size + left; x <= right; x++, at++, wj += jx, wk += kx) {
          if (wj < -1e-6 || wk < -1e-6 || wj + wk > 1.000001) continue;
          const depth = s[i + 2] + wj * (s[j + 2] - s[i + 2]) + wk * (s[k + 2] - s[i + 2]);
          if (depth > depths[at]) {
            depths[at] = depth;
            pixels[at] = color;
            if (n > 1 && !plain) {  // weights as in space, not on the screen
              const p = Math.max(0, Math.min(n - 1, Math.floor(n * wj * s[j + 2] / depth)));
              const q = Math.max(0, Math.min(n - 1, Math.floor(n * wk * s[k + 2] / depth)));
              pixels[at] = pixel(colours, first + 3 * (p * n + q), light);
            }
          }
        }
      }
    }
  }

  function draw(item) {
    item.waiting = false;
    if (!item.visible) return;
    const side = Math.round(item.canvas.clientWidth * Math.min(window.devicePixelRatio || 1, 2));
    if (!side) return;
    const large = side * OVERSAMPLING;
    buffer.width = buffer.height = large;
    const pen = buffer.getContext("2d"), picture = pen.createImageData(large, large);
    rasterize(item.vertices, item.colours, item.look, large, new Uint32Array(picture.data.buffer));
    pen.putImageData(picture, 0, 0);
    item.canvas.width = item.canvas.height = side;  // setting the size clears the canvas
    item.canvas.getContext("2d").drawImage(buffer, 0, 0, side, side);
  }

  function schedule(item) {
    if (item.waiting) return;
    item.waiting = true;
    requestAnimationFrame(() => draw(item));
  }

  /** Turns a view by radians and zooms it by a factor; all views if "Turn all together" is checked. */
  function move(item, right, down, factor) {
    const look = item.look;
    look.azimuth += right;
    look.elevation = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, look.elevation + down));
    look.zoom = Math.max(0.3, Math.min(12, look.zoom * factor));
    share(item);
  }

  function share(item) {
    for (const other of together.checked ? items : [item]) {
      Object.assign(other.look, item.look);
      schedule(other);
    }
  }

  function listen(item) {
    const canvas = item.canvas, fingers = new Map();
    const spread = () => {
      const [a, b] = [...fingers.values()];
      return Math.hypot(a.x - b.x, a.y - b.y) || 1;
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, {x: event.clientX, y: event.clientY});
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const apart = fingers.size === 2 ? spread() : 0;
      const turn = Math.PI / canvas.clientWidth;  // dragging over the whole width is half a turn
      const dx = event.clientX - before.x, dy = event.clientY - before.y;
      fingers.set(event.pointerId, {x: event.clientX, y: event.clientY});
      if (apart) move(item, 0, 0, spread() / apart);
      else move(item, dx * turn, dy * turn, 1);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
    }
    canvas.addEventListener("wheel", (event) => {
      // The wheel scrolls the page unless the view has focus. A pinch on a touchpad arrives as wheel with ctrl.
      if (document.activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      move(item, 0, 0, Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)));
    }, {passive: false});
    const reset = () => {
      Object.assign(item.look, item.start);
      share(item);
    };
    canvas.addEventListener("dblclick", reset);
    const keys = {ArrowLeft: [-0.15, 0, 1], ArrowRight: [0.15, 0, 1], ArrowUp: [0, -0.15, 1],
      ArrowDown: [0, 0.15, 1], "+": [0, 0, 1.15], "=": [0, 0, 1.15], "-": [0, 0, 1 / 1.15]};
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key === "0") reset();
      else if (keys[event.key]) move(item, ...keys[event.key]);
      else return;
      event.preventDefault();
    });
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const {target, isIntersecting} of entries) {
      const item = items[target.dataset.number];
      item.visible = isIntersecting;
      if (isIntersecting) {
        if (!item.vertices) {
          item.vertices = Float32Array.from(new Int16Array(bytes(target.dataset.vertices)),
            (value) => value * target.dataset.scale / 32767);
          item.start.zoom = fitting(item.vertices);
          if (!together.checked) item.look.zoom = item.start.zoom;
        }
        if (target.dataset.colours) item.colours ??= new Uint8Array(bytes(target.dataset.colours));
        schedule(item);
      } else {
        target.width = target.height = 0;  // frees the memory of canvases off the screen
      }
    }
  }, {rootMargin: "300px"});

  for (const canvas of document.querySelectorAll("canvas")) {
    const item = {canvas, start: {...START}, look: {...START}, visible: false, waiting: false, vertices: null, colours: null};
    canvas.dataset.number = items.push(item) - 1;
    listen(item);
    watcher.observe(canvas);
  }
  together.addEventListener("change", () => items.length && together.checked && share(items[0]));
  backs.addEventListener("change", () => items.forEach(schedule));
  window.addEventListener("resize", () => items.forEach(schedule));
})();
