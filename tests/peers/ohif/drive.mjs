// Drives OHIF as a radiologist does: the study list, a series, its segmentation, the same findings in other forms. Prints what it saw as JSON.
// node drive.mjs PLAYWRIGHT SITE STUDY SEG-SERIES FOLDER-OF-SCREENSHOTS [FORM=SERIES ...]
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [playwright, site, study, segmentation, folder, ...forms] = process.argv.slice(2);

// The screen has the colour of a finding: it is drawn over an image, or stands in one.
const coloured = () => {
  for (const canvas of document.querySelectorAll('canvas')) {
    if (canvas.width < 100) continue;
    const copy = document.createElement('canvas');
    copy.width = canvas.width;
    copy.height = canvas.height;
    const context = copy.getContext('2d');
    context.drawImage(canvas, 0, 0);
    const data = context.getImageData(0, 0, copy.width, copy.height).data;
    let found = 0;
    for (let at = 0; at < data.length; at += 4) {
      const [red, green, blue] = [data[at], data[at + 1], data[at + 2]];
      if (Math.max(red, green, blue) - Math.min(red, green, blue) > 40) found += 1;
    }
    if (found > 200) return true;
  }
  return false;
};
const segmented = () => (window.services?.segmentationService?.getSegmentations?.() ?? []).length > 0;
const { chromium } = (await import(pathToFileURL(join(playwright, 'index.js')))).default;
const profile = mkdtempSync(join(tmpdir(), 'viewer-'));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: '/usr/bin/chromium',
  headless: true,
  viewport: { width: 1400, height: 900 },
  args: [
    '--no-sandbox', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist', '--disable-quic',
    '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
  ],
});
const seen = { failed: [], statuses: {}, blocked: [], foreign: [], seconds: {} };
const origin = new URL(site).origin;
try {
  const page = browser.pages()[0] ?? (await browser.newPage());
  page.setDefaultTimeout(150000);
  page.on('console', message => {
    if (message.text().includes('Content Security Policy')) seen.blocked.push(message.text().slice(0, 300));
  });
  page.on('request', request => {
    if (/^(https?|wss?):/.test(request.url()) && new URL(request.url()).origin !== origin) seen.foreign.push(request.url());
  });
  page.on('response', answer => {
    if (!answer.url().includes('/dicom-web')) return;
    const path = new URL(answer.url()).pathname.replace(/[0-9]+(\.[0-9]+)+/g, 'UID');
    (seen.statuses[path] ??= new Set()).add(answer.status());
  });
  page.on('requestfailed', request => {
    const why = request.failure()?.errorText ?? '';
    if (request.url().includes('/dicom-web') && why !== 'net::ERR_ABORTED') seen.failed.push(`${request.url()} ${why}`);
  });

  await page.goto(`${site}/`);
  const row = page.getByText(/VIEWER.*TEST/).first();
  await row.waitFor();
  seen.list = true;
  await page.screenshot({ path: join(folder, 'ohif-study-list.png') });

  const began = Date.now();
  const wanted = `${site}/viewer?StudyInstanceUIDs=${study}&initialSeriesInstanceUID=${segmentation}`;
  await page.goto(wanted);
  await page.waitForFunction(() => document.querySelectorAll('canvas').length > 0);
  seen.seconds.canvas = (Date.now() - began) / 1000;
  const prompt = page.getByRole('button', { name: /^(yes|load|confirm)$/i }).first();
  const loaded = page.waitForFunction(segmented);
  await Promise.race([loaded, prompt.waitFor().then(() => prompt.click()).catch(() => {})]);
  await loaded;
  await page.waitForFunction(() => {
    const rendered = [...document.querySelectorAll('canvas')].some(canvas => canvas.width > 100);
    return rendered && !document.body.innerText.includes('Loading');
  });
  seen.segmentations = await page.evaluate(() =>
    window.services.segmentationService.getSegmentations().map(each => ({
      label: each.label,
      segments: Object.values(each.segments).filter(Boolean).map(segment => segment.label),
    })));
  // The segment's colour is on the screen once its first frame is drawn over the image.
  await page.waitForFunction(coloured);
  seen.seconds.overlay = (Date.now() - began) / 1000;
  seen.overlay = true;
  await page.screenshot({ path: join(folder, 'ohif-segmentation.png') });

  seen.forms = [];
  for (const [form, series] of forms.map(each => each.split('='))) {
    await page.goto(`${site}/viewer?StudyInstanceUIDs=${study}&initialSeriesInstanceUID=${series}`);
    await page.waitForFunction(() => [...document.querySelectorAll('canvas')].some(canvas => canvas.width > 100));
    await page.waitForFunction(form === 'LABELMAP' ? segmented : coloured); // this version takes the colour before a label map's own
    seen.forms.push(form);
    await page.screenshot({ path: join(folder, `ohif-${form.toLowerCase()}.png`) });
  }
} catch (error) {
  seen.error = String(error).slice(0, 2000);
  const page = browser.pages()[0];
  if (page) {
    await page.screenshot({ path: join(folder, 'ohif-failed.png') }).catch(() => {});
    seen.text = (await page.evaluate(() => document.body.innerText).catch(() => '')).slice(0, 1500);
  }
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}
seen.statuses = Object.fromEntries(Object.entries(seen.statuses).map(([path, found]) => [path, [...found]]));
console.log(JSON.stringify(seen, null, 1));
