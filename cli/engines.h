/* What engines for LoRA cannot load of what vera publishes. It is said and not refused: what one of
   them cannot take another one can. */
#ifndef CLI_ENGINES_H
#define CLI_ENGINES_H

#include "format/peft.h"

/* Warnings on stderr: a rank that vLLM has no room for, modules that SGLang takes only beside
   others of the same layer. */
void engines_warn(const struct adapter *adapter);

#endif
