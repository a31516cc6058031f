// A photograph by the camera of this machine, in a dialog.

import { button, el } from "/web/dom.js";
import { t } from "/web/text.js";

/** The photograph as a file, or null if the person thought better of it. */
export function photograph() {
  return new Promise((resolve) => {
    const video = el("video", { autoplay: true, playsinline: true, "aria-label": t("camera.view") });
    const trouble = el("p", { role: "alert" });
    const shutter = button(t("camera.shutter"), async () => close(await still(video)), { class: "main", disabled: true });
    const dialog = el(
      "dialog",
      { class: "camera", "aria-label": t("picture.photo"), oncancel: () => close(null) },
      video,
      trouble,
      el("div", { class: "row" }, shutter, button(t("camera.cancel"), () => close(null))),
    );
    const close = (file) => {
      video.srcObject?.getTracks().forEach((track) => track.stop());
      dialog.remove();
      resolve(file);
    };
    document.body.append(dialog);
    dialog.showModal();
    open(video, shutter).catch(() => (trouble.textContent = t("camera.refused")));
  });
}

async function open(video, shutter) {
  video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  await video.play();
  shutter.disabled = false;
}

async function still(video) {
  const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  return new File([blob], "photograph.jpg", { type: blob.type });
}
