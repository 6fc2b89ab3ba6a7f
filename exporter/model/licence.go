package model

import (
	"slices"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/bundle"
)

// unstated is the licence of weights that nobody said one of.
const unstated = "unstated"

// licences returns the terms of the parts that are exported. But for a .gguf a
// checkpoint does not say them, so what stands here are the user's words, and
// for the rest a notice about the released weights' terms.
func (x *export) licences() ([]bundle.Licence, error) {
	list := []bundle.Licence{}
	add := func(part, path, notice string) {
		if path != "" {
			list = append(list, bundle.Licence{Part: part, Name: unstated, Notice: notice})
		}
	}
	add("imagebind", x.ImageBind, "Meta's released ImageBind weights are CC BY-NC-SA 4.0: not for commercial use, and so is what is made from them")
	add("point", x.Point, "the released Point-Bind weights are published together with ImageBind's, whose terms bind them too; see where they came from")
	add("llama", x.LLaMA, "Meta's LLaMA weights come under Meta's LLaMA licence, which depends on the version; other models have their own")
	add("adapter", x.Adapter, "the released ImageBind-LLM adapters were trained on LLaMA and ImageBind, whose terms bind them too")
	if i := slices.IndexFunc(list, func(l bundle.Licence) bool { return l.Part == "llama" }); i >= 0 && x.baseLicence != "" {
		list[i] = bundle.Licence{Part: "llama", Name: x.baseLicence}
	}
	for _, l := range x.Licences {
		part, name, ok := strings.Cut(l, "=")
		i := slices.IndexFunc(list, func(l bundle.Licence) bool { return l.Part == part })
		if !ok || name == "" || i < 0 {
			var parts []string
			for _, l := range list {
				parts = append(parts, l.Part)
			}
			return nil, imagebind.Errorf(imagebind.Invalid, "--licence %q: want PART=NAME, PART being one of %s", l, strings.Join(parts, ", "))
		}
		list[i] = bundle.Licence{Part: part, Name: name}
	}
	if x.files[vocabulary] != nil {
		list = append(list, bundle.Licence{Part: vocabulary, Name: "MIT", Notice: "CLIP's vocabulary, OpenAI"})
	}
	return list, nil
}
