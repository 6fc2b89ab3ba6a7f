package text

// The expression of ftfy 6.3.1, ftfy/badness.py (Apache-2.0, © 2023 Robyn Speer),
// which finds sequences of characters that hardly occur but in mojibake. A name
// in braces stands for the characters of that category.
var (
	categories = map[string]string{
		"common":            `\x{a0}\x{ad}·´–—―…’`,
		"c1":                `\x{80}-\x{9f}`,
		"bad":               `¦¤¨¬¯¸ƒ\x{2c6}\x{2c7}\x{2d8}\x{2db}\x{2dc}†‡‰⌐◊�ªº`,
		"law":               `¶§`,
		"currency":          `¢£¥₧€`,
		"start_punctuation": `¡«¿©΄΅‘‚“„•‹\x{f8ff}`,
		"end_punctuation":   `®»\x{2dd}”›™`,
		"numeric":           `²³¹±¼½¾×µ÷⁄∂∆∏∑√∞∩∫≈≠≡≤≥№`,
		"kaomoji":           `Ò-ÖÙ-Üò-öø-üŐŌŪŲ°`,
		"upper_accented":    `À-ÑØÜÝĂĀĄĆČĎĐĘĚĒĖĞĢİĪĶĹĽŁĻŃŇŅŒŘŚŞŠŢŤŮŰŸŹŻŽҐ`,
		"lower_accented":    `ßà-ñăąāćčďđęěēėğģįīķĺľłļœŕśşšťüźżžґﬁﬂ`,
		"upper_common":      `ÞΑ-ΩΆΈΉΊΌΎΏΪΫЁ-Я`,
		"lower_common":      `α-ωάέήίΰа-џ`,
		"box":               `│┌┐┘├┤┬┼═-╬▀▄█▌▐░▒▓`,
	}

	badness = []string{
		`[{c1}]`,
		`[{bad}{lower_accented}{upper_accented}{box}{start_punctuation}{end_punctuation}{currency}{numeric}{law}][{bad}]`,
		`[a-zA-Z][{lower_common}{upper_common}][{bad}]`,
		`[{bad}][{lower_accented}{upper_accented}{box}{start_punctuation}{end_punctuation}{currency}{numeric}{law}]`,
		`[{lower_accented}{lower_common}{box}{end_punctuation}{currency}{numeric}][{upper_accented}]`,
		`[{box}{end_punctuation}{currency}{numeric}][{lower_accented}]`,
		`[{lower_accented}{box}{end_punctuation}][{currency}]`,
		`[\s\x{1c}-\x{1f}\x{85}\pZ][{upper_accented}][{currency}]`,
		`[{upper_accented}{box}][{numeric}{law}]`,
		`[{lower_accented}{upper_accented}{box}{currency}{end_punctuation}][{start_punctuation}][{numeric}]`,
		`[{lower_accented}{upper_accented}{currency}{numeric}{box}{law}][{end_punctuation}][{start_punctuation}]`,
		`[{currency}{numeric}{box}][{start_punctuation}]`,
		`[a-z][{upper_accented}][{start_punctuation}{currency}]`,
		`[{box}][{kaomoji}]`,
		`[{lower_accented}{upper_accented}{currency}{numeric}{start_punctuation}{end_punctuation}{law}][{box}]`,
		`[{box}][{end_punctuation}]`,
		`[{lower_accented}{upper_accented}][{start_punctuation}{end_punctuation}][\pL\pN_]`,
		`[Œœ][^A-Za-z]`,
		`[{upper_accented}]°`,
		`[ÂÃÎÐ][€œŠš¢£Ÿž\xa0\xad®©°·»{start_punctuation}{end_punctuation}–—´]`,
		`×[²³]`,
		`[ØÙ][{common}{currency}{bad}{numeric}{start_punctuation}ŸŠ®°µ»][ØÙ][{common}{currency}{bad}{numeric}{start_punctuation}ŸŠ®°µ»]`,
		`à[²µ¹¼½¾]`,
		`√[±∂†≠®™´≤≥¥µø]`,
		`≈[°¢]`,
		`‚Ä[ìîïòôúùû†°¢π]`,
		`‚[âó][àä°ê]`,
		`вЂ`,
		`[ВГРС][{c1}{bad}{start_punctuation}{end_punctuation}{currency}°µ][ВГРС]`,
		`ГўВЂВ.[A-Za-z ]`,
		`Ã[\xa0¡]`,
		`[a-z][\s\x{1c}-\x{1f}\x{85}\pZ]?[ÃÂ][ ]`,
		`^[ÃÂ][ ]`,
		`[a-z.,?!{end_punctuation}]Â[ {start_punctuation}{end_punctuation}]`,
		`β€[™\xa0Ά\xad®°]`,
		`[ΒΓΞΟ][{c1}{bad}{start_punctuation}{end_punctuation}{currency}°][ΒΓΞΟ]`,
		`ā€`,
	}

	// What UTF-8 looks like when read as one of the encodings (ftfy/chardata.py,
	// UTF8_CLUES): first bytes of sequences of two, three and four, bytes behind
	// them, and those bytes less spaces and dashes that mean themselves.
	clues = struct{ two, three, four, more, strict string }{
		two:    `ĂÂÄĀÅÃÆĆČÇĎĐÉĚÊËĖÈĒĘÐĞĢÍÎÏİÌĪĶĹĻŁŃŇŅÑÓÔÖŐÒŌØÕŘŚŠŞŢÞÚÛÜŰÙŪŲŮÝŹŽŻß×ΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩΪΫάέήίВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ`,
		three:  `áăâäàāąåãæćčçďéěêëėèēęģíîïìīįķĺļŕźΰαβγδεζηθικλμνξοабвгдежзийклмноп`,
		four:   `đðğóšπσру`,
		more:   `\x{80}-¿ ĄÆĽŁØŖŚŠŞŤŸŹŽŻŒąæƒľłøŗśšşťźžżœ\x{2c6}\x{2c7}\x{2d8}\x{2db}\x{2dc}\x{2dd}΄΅ΆΈΉΊΌΎΏЁЂЃЄЅІЇЈЉЊЋЌЎЏёђѓєѕіїјљњћќўџҐґ–—―‘’‚“”„†‡•…‰‹›€№™`,
		strict: `\x{80}-¿ĄÆĽŁØŖŚŠŞŤŸŹŽŻŒąæƒľłøŗśšşťźžżœ\x{2c6}\x{2c7}\x{2d8}\x{2db}\x{2dc}\x{2dd}΄΅ΆΈΉΊΌΎΏЁЂЃЄЅІЇЈЉЊЋЌЎЏёђѓєѕіїјљњћќўџҐґ†‡‰‹›€№™`,
	}
)
