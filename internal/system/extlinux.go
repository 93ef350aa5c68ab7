package system

import (
	"path"
	"strings"
)

// extlinuxConf is what U-Boot reads of an extlinux.conf (its boot/pxe_utils.c):
// labels in order, each with its kernel command line, and the default one.
type extlinuxConf struct {
	fallback string
	labels   []string
	appends  map[string]string
}

func parseExtlinux(content []byte) extlinuxConf {
	conf := extlinuxConf{appends: make(map[string]string)}
	label := ""
	for line := range strings.Lines(string(content)) {
		keyword, value := cutWord(line)
		switch strings.ToLower(keyword) {
		case "default", "ontimeout":
			conf.fallback = value
		case "label":
			label = value
			if _, twice := conf.appends[label]; !twice {
				conf.labels = append(conf.labels, label)
				conf.appends[label] = ""
			}
		case "append":
			if label != "" {
				conf.appends[label] = value
			}
		case "menu":
			if strings.EqualFold(value, "default") && label != "" {
				conf.fallback = label
			}
		}
	}
	return conf
}

func cutWord(line string) (word, rest string) {
	line = strings.TrimSpace(line)
	end := strings.IndexAny(line, " \t")
	if end < 0 {
		return line, ""
	}
	return line[:end], strings.TrimSpace(line[end:])
}

// extlinux resolves the default label of an extlinux.conf, if there is one.
func (w *walk) extlinux(boots []string) (BootDefault, bool) {
	d := BootDefault{Loader: LoaderExtlinux}
	for _, boot := range boots {
		content, err := w.readFile(path.Join(boot, "extlinux/extlinux.conf"), maxFile)
		if absent(err) {
			continue
		}
		if err != nil {
			return d.because("%v", err), true
		}
		conf := parseExtlinux(content)
		d.Entry, d.Via = conf.fallback, ViaDefault
		if d.Entry == "" && len(conf.labels) > 0 {
			d.Entry, d.Via = conf.labels[0], ViaFirstEntry
		}
		options, ok := conf.appends[d.Entry]
		if !ok {
			return d.because("extlinux.conf has no label %q", d.Entry), true
		}
		return d.boots(w, initOf(options)), true
	}
	return d, false
}
