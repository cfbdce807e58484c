// Everything here only adds to pages that work without it: live numbers, dialogs, selections, small helps.

import { watch } from "./live.js";
import { openDialogs } from "./dialogs.js";
import { selections } from "./selection.js";
import { helps } from "./helps.js";

watch();
openDialogs();
selections();
helps();
