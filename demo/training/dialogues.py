"""Questions and answers about one thing, or two in a mix, in English and Chinese, of one turn or several.

ask(kind, things, lang, pick) is a pure function: the answer follows from the kind and the things alone, and pick (any whole
number) chooses among about ten ways to ask. dialogue(rng, ...) strings turns together. Things are entries of concepts.json.
"""

from concepts import GROUP_NAMES

KINDS = ["what", "describe", "group", "keywords", "is", "is-group"]  # of one thing
MIX = ["both", "same"]  # of two, in any order: the answer takes them by id, as a mix has no order

QUESTIONS = {
    "en": {
        "what": ["What is this?", "What is it?", "What do you see?", "What is shown here?", "Name this.", "What does it show?",
                 "Can you tell me what this is?", "What am I looking at?", "Which thing is this?", "Say what this is."],
        "describe": ["Describe it.", "Describe this.", "Tell me about it.", "What can you say about it?", "Give a description.",
                     "Describe what you see.", "Tell me more.", "Write a caption.", "Describe the input.", "Say something about this."],
        "group": ["What kind of thing is it?", "Which group does it belong to?", "What category is this?", "What sort of thing is this?",
                  "Which category does it belong to?", "Name its group.", "What type of thing is it?", "How would you classify it?",
                  "Where does it belong?", "Give its category."],
        "keywords": ["List some keywords.", "Give me keywords.", "Which keywords fit?", "Tag this.", "What tags would you give it?",
                     "Name some keywords for it.", "Which words go with it?", "Give tags.", "Keywords, please.", "List its tags."],
        "is": ["Is this {}?", "Is it {}?", "Do you see {}?", "Does it show {}?", "Would you call it {}?", "Could this be {}?",
               "Is {} shown here?", "Yes or no: is it {}?", "Is that {}?", "Am I looking at {}?"],
        "is-group": ["Does it belong to {}?", "Is its group {}?", "Is it in the group {}?", "Does this count as {}?", "Is {} its category?",
                     "Yes or no: is its group {}?", "Would you put it in {}?", "Is this from {}?", "Does {} fit?", "Is the category {}?"],
        "both": ["What two things are these?", "Which two things do you notice?", "There are two things. Which?", "Name both things.",
                 "What is mixed here?", "What are the two inputs?", "Name the two things.", "Which things are combined?",
                 "Say what both are.", "What do the two show?"],
        "same": ["Are both of the same kind?", "Do the two belong to the same group?", "Are they in one category?", "Compare the two.",
                 "Is their group the same?", "Are the two alike in kind?", "Do they share a category?", "Compare both things.",
                 "Are they the same sort of thing?", "Do both have the same group?"],
        "count": ["How many questions have I asked?", "How many questions was that?", "Count my questions.", "How often have I asked you something?",
                  "Which number is this question?", "How many turns are there so far?", "How many times did I ask?", "Count the turns.",
                  "Say how many questions I asked.", "What is the count of my questions?"],
    },
    "zh": {
        "what": ["这是什么？", "它是什么？", "你看到了什么？", "这里有什么？", "说出它的名字。", "这个东西叫什么？", "请告诉我这是什么。", "我看到的是什么？", "这是什么东西？", "认一认这是什么。"],
        "describe": ["描述一下。", "请描述它。", "介绍一下它。", "说说它。", "描述你看到的。", "给出描述。", "写一句说明。", "请说明一下。", "多说一点。", "讲讲这个。"],
        "group": ["它属于哪一类？", "这是哪一类东西？", "它的类别是什么？", "它是什么类型？", "请给它分类。", "这属于什么类别？", "说出它的类别。", "它该归到哪一类？", "它是哪种东西？", "给出类别。"],
        "keywords": ["列出一些关键词。", "给出关键词。", "有哪些关键词？", "给它加标签。", "请写出标签。", "哪些词适合它？", "说几个关键词。", "它的关键词是什么？", "列出标签。", "关键词有哪些？"],
        "is": ["这是{}吗？", "它是{}吗？", "你看到{}了吗？", "这里有{}吗？", "这叫{}吗？", "可能是{}吗？", "那是{}吗？", "是不是{}？", "我看到的是{}吗？", "这个东西是{}吗？"],
        "is-group": ["它属于{}吗？", "它的类别是{}吗？", "它在{}这一类吗？", "这算{}吗？", "它该归到{}吗？", "是不是{}这一类？", "这属于{}吗？", "类别是{}吗？", "{}合适吗？", "它是{}里的吗？"],
        "both": ["这是哪两样东西？", "有哪两个东西？", "说出这两样东西。", "混在一起的是什么？", "两个输入是什么？", "这两个是什么？", "请说出两者的名字。", "你认出哪两样？", "两样东西分别是什么？", "这里有哪两样？"],
        "same": ["它们是同一类吗？", "两者属于同一类吗？", "比较这两样。", "它们的类别相同吗？", "这两个是一类东西吗？", "比较一下两者。", "它们同类吗？", "两样东西类别一样吗？", "它们的种类相同吗？", "两者同属一类吗？"],
        "count": ["我问了几个问题？", "到现在有几个问题？", "数一数我的问题。", "我问了几次？", "这是第几个问题？", "一共有几轮？", "我问过多少次？", "数一数有几轮。", "说说我问了几个问题。", "我的问题有多少个？"],
    },
}

# Names that take no article, by their last word; plurals and proper names are found by their form.
MASS = set("""rice bread bacon honey milk sake salt butter ice fire wood coral poo makeup popcorn spaghetti sushi oden cooking camping
broccoli garlic ginger root corn food salad wind horns fog foggy construction liquid mate tea racing hockey tennis bowling badminton lacrosse
pong wedding breast-feeding lightning rain snow yarn thread soap dna selfie polish bread dusk mail cards meridians wings blood
flatbread arts luggage money locked unlocked football volleyball basketball baseball softball voltage surfing""".split())


def noun(thing, lang):
    """The thing's name as it stands in a sentence: "a dog", "an owl", "grapes", "Tokyo tower"."""
    name = thing["en"] if lang == "en" else thing["zh"]
    if lang == "zh" or name.split()[0] in ("person", "people", "palms", "rock", "mount"):
        return f"a {name}" if lang == "en" and name.split()[0] in ("person", "rock") else name
    first, head = name.split()[0], name.split(" fluttering ")[0].split(" with ")[0].split(" of ")[0].split(" and ")[0].split(" showing ")[0].split()[-1]
    if name.startswith("Statue"):
        return f"the {name}"
    plural = head == "skis" or head.endswith("s") and not head.endswith(("ss", "us", "is", "rhinoceros"))
    if plural or head.lower() in MASS or (name[0].isupper() and first not in ("Japanese", "Christmas", "T-Rex")):
        return name
    if first in ("1st", "2nd", "3rd") or thing["subgroup"].startswith("hand"):
        return f"the {name}"
    vowel = name[0].lower() in "aeio" or (name[0] == "u" and not name.startswith(("unicorn", "uni"))) or name.startswith(("hourglass", "x-ray"))
    return f"{'an' if vowel and not name.startswith(('one-', 'euro', 'ewe')) else 'a'} {name}"


def group(thing, lang):
    return GROUP_NAMES[thing["group"]][lang == "zh"]


def keywords(thing, lang):
    """Three keywords at most, always the same: the first in the source's order that are not the name."""
    name = thing[lang]
    return [t for t in thing[f"tags_{lang}"] if t != name][:3] or [name]


def ask(kind, things, lang, pick=0, other=None, count=None):
    """(question, answer). things: one, or two for the kinds of MIX; other: the thing that "is" and "is-group" ask about,
    where the answer may be no; count: of "count", the questions so far, this one too."""
    ways = QUESTIONS[lang][kind]
    question, en = ways[pick % len(ways)], lang == "en"
    if kind == "count":
        return question, (f"{count} question{'s' * (count > 1)}." if en else f"{count}个问题。")
    a, b = sorted(things, key=lambda t: t["id"]) if kind in MIX else (things[0], None)
    name = noun(a, lang)
    if kind == "what":
        return question, f"This is {name}." if en else f"这是{name}。"
    if kind == "describe":
        words = ", ".join(keywords(a, lang)) if en else "、".join(keywords(a, lang))
        return question, f"This is {name}, from {group(a, lang)}: {words}." if en else f"这是{name}，属于{group(a, lang)}：{words}。"
    if kind == "group":
        return question, f"It belongs to {group(a, lang)}." if en else f"它属于{group(a, lang)}。"
    if kind == "keywords":
        return question, (", ".join(keywords(a, lang)) + ".") if en else ("、".join(keywords(a, lang)) + "。")
    if kind == "is":
        other = other or a
        yes = other["id"] == a["id"]
        answer = ("Yes" if yes else "No", "是的" if yes else "不是")
        return question.format(noun(other, lang)), f"{answer[0]}, this is {name}." if en else f"{answer[1]}，这是{name}。"
    if kind == "is-group":
        other = other or a
        yes = other["group"] == a["group"]
        answer = ("Yes" if yes else "No", "是的" if yes else "不是")
        return (question.format(group(other, lang)),
                f"{answer[0]}, it belongs to {group(a, lang)}." if en else f"{answer[1]}，它属于{group(a, lang)}。")
    second = noun(b, lang)
    if kind == "both":
        return question, f"These are {name} and {second}." if en else f"这是{name}和{second}。"
    if kind == "same":
        if a["group"] == b["group"]:
            return question, f"Yes, both belong to {group(a, lang)}." if en else f"是的，都属于{group(a, lang)}。"
        return (question, f"No, {name}: {group(a, lang)}; {second}: {group(b, lang)}." if en
                else f"不是，{name}属于{group(a, lang)}，{second}属于{group(b, lang)}。")
    raise ValueError(f"no kind of question is {kind!r}; there are {KINDS + MIX + ['count']}")


def dialogue(rng, things, chosen, lang, turns=1):
    """Turns [(question, answer), ...] about one thing or two in a mix; chosen are all concepts, for the questions that
    are answered with no (half of them). A later turn may ask how many questions there were. rng: numpy's Generator."""
    out = []
    for n in range(turns):
        kinds = list(MIX if len(things) == 2 else KINDS) + (["count"] if n else [])
        kind = kinds[int(rng.integers(len(kinds)))]
        other = chosen[int(rng.integers(len(chosen)))] if rng.random() < 0.5 else None
        out.append(ask(kind, things, lang, int(rng.integers(10)), other, n + 1))
    return out


def captions(thing, lang):
    """Ten texts for the text encoder, in the pattern of prompt templates."""
    name = noun(thing, lang)
    if lang == "en":
        return [name, thing["en"], f"a picture of {name}", f"a drawing of {name}", f"an icon of {name}", f"this is {name}",
                f"{name}, {group(thing, lang)}", f"{thing['en']}: {', '.join(keywords(thing, lang))}", f"a photo of {name}", f"here you see {name}"]
    return [name, f"一张{name}的图片", f"{name}的图画", f"{name}的图标", f"这是{name}", f"{name}，{group(thing, lang)}",
            f"{name}：{'、'.join(keywords(thing, lang))}", f"一张{name}的照片", f"这里有{name}", f"图中是{name}"]
