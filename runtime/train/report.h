/* report.html of a run: settings, curves, results, confusion matrix, in one file without outside
 * references.
 */
#ifndef SPECTRA_TRAIN_REPORT_H
#define SPECTRA_TRAIN_REPORT_H

#include "spectraformer.h"

/* From config.json and log.jsonl alone. */
spectra_status report_write(const char *run);

#endif
