package system

import "path"

// GaveUpOn reports whether the boot loader counts boots and has used up every try of an entry of that closure, or of one of
// its specialisations, without a boot that was blessed: it then boots another one by itself
// (https://systemd.io/AUTOMATIC_BOOT_ASSESSMENT). A loader that does not count never gives up.
func (h *Host) GaveUpOn(closure string) bool {
	w := newWalk(h)
	boots, _ := w.distinctBootPaths()
	menu, err := w.menu(w.partitionsOf(w.efiSystemPartition(boots), boots))
	if err != nil {
		return false
	}
	for _, e := range menu {
		if e.triesLeft != 0 || e.unreadable != nil {
			continue
		}
		options, err := w.commandLine(e)
		if err != nil {
			continue
		}
		toplevel, err := w.toplevelOf(initOf(options))
		if err != nil {
			continue
		}
		if _, is := h.IsOrSpecialises(toplevel, closure); is {
			return true
		}
	}
	return false
}

// commandLine is the kernel command line of an entry, or the one inside of the image that it names.
func (w *walk) commandLine(e bootEntry) (string, error) {
	if e.uki && initOf(e.options) == "" && e.image != "" {
		return w.ukiOptions(path.Join(e.boot, e.image))
	}
	return e.options, nil
}
