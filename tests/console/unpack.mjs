// Unpacks Chromium and the libraries beside it into $TMPDIR, where tests/console/browsers.py finds it.

import chromium from "@sparticuz/chromium";

await chromium.executablePath();
