// What a page in one file says while its many letters are read: its own line is for browsers that run no scripts, and for
// a file that was cut off before the scripts at its end.

(function () {
  "use strict";
  var status = document.getElementById("status");
  var line = status.textContent;
  status.textContent = "Loading the model ...";
  document.addEventListener("DOMContentLoaded", function () {
    if (self.holdFiles) return;
    status.textContent = line;
    status.classList.add("error");
  });
})();
