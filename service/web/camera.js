// A dialog that takes a photo with the computer's camera.

import { button, el } from "/web/dom.js";
import { t } from "/web/text.js";

/** The photo as a file, or null if the visitor cancels. */
export function takePhoto() {
  return new Promise((resolve) => {
    const video = el("video", { autoplay: true, playsinline: true, "aria-label": t("camera.view") });
    const message = el("p", { role: "alert" });
    const shutter = button(t("camera.shutter"), async () => close(await frameOf(video)), { class: "main", disabled: true });
    const dialog = el(
      "dialog",
      { class: "camera", "aria-label": t("image.photo"), oncancel: () => close(null) },
      video,
      message,
      el("div", { class: "row" }, shutter, button(t("camera.cancel"), () => close(null))),
    );
    const close = (file) => {
      video.srcObject?.getTracks().forEach((track) => track.stop());
      dialog.remove();
      resolve(file);
    };
    document.body.append(dialog);
    dialog.showModal();
    startCamera(video, shutter).catch(() => (message.textContent = t("camera.refused")));
  });
}

async function startCamera(video, shutter) {
  video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  await video.play();
  shutter.disabled = false;
}

async function frameOf(video) {
  const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  return new File([blob], "photo.jpg", { type: blob.type });
}
