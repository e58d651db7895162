/* Writes report.html, a page that shows a run: its settings, learning curves, results and confusion
 * matrix. The page is one file that loads nothing from elsewhere.
 */
#ifndef SPECTRA_TRAIN_REPORT_H
#define SPECTRA_TRAIN_REPORT_H

#include "spectraformer.h"

/* From config.json and log.jsonl alone. */
spectra_status report_write(const char *run);

#endif
