# The first sector of a disk for emulate_test.go. It reads the next 127 sectors
# to 0x10000, goes to 64 bits with AVX-512 on, and makes the calls listed there,
# 64 bytes each, until one of no function:
#
#	function, dst, dstStride, rows, queries, stride, n, want: 8 bytes each
#
# To port 0xe9 it writes "<", after each call "." if the 64 bytes at dst are those
# at want, "X" if not, and at the end ">". Then it turns the machine off (Bochs'
# port 0x8900).

	.intel_syntax noprefix
	.code16
	.globl _start
_start:
	cli
	xor	ax, ax
	mov	ds, ax
	mov	es, ax
	mov	ss, ax
	mov	sp, 0x7c00
	mov	si, offset packet
	mov	ah, 0x42		# extended read, from the drive in dl
	int	0x13

	mov	di, 0x1000		# page tables: the first 2 MB as they are
	mov	cx, 3*4096/2
	xor	ax, ax
	rep stosw
	mov	word ptr [0x1000], 0x2003
	mov	word ptr [0x2000], 0x3003
	mov	word ptr [0x3000], 0x0083
	mov	eax, 0x1000
	mov	cr3, eax
	mov	eax, cr4
	or	eax, 0x40620		# PAE, OSFXSR, OSXMMEXCPT, OSXSAVE
	mov	cr4, eax
	mov	ecx, 0xc0000080		# EFER: LME
	rdmsr
	or	eax, 0x100
	wrmsr
	lgdt	[gdtr]
	mov	eax, cr0
	and	eax, 0xfffffff3		# no EM, no TS
	or	eax, 0x80000003		# PG, MP, PE
	mov	cr0, eax
	ljmp	0x08, offset long

	.code64
long:
	mov	ax, 0x10
	mov	ds, ax
	mov	es, ax
	mov	ss, ax
	xor	ecx, ecx
	xor	edx, edx
	mov	eax, 0xe7		# XCR0: x87, SSE, AVX, AVX-512
	xsetbv
	mov	al, '<'
	out	0xe9, al
	mov	ebx, 0x10000
next:
	mov	rax, [rbx]
	test	rax, rax
	jz	done
	push	rbx
	sub	rsp, 48			# Go's stack convention: arguments above the return address
	lea	rsi, [rbx+8]
	mov	rdi, rsp
	mov	ecx, 6
	rep movsq
	call	rax
	add	rsp, 48
	pop	rbx
	mov	rsi, [rbx+8]
	mov	rdi, [rbx+56]
	mov	ecx, 16
	repe cmpsd
	mov	al, '.'
	je	1f
	mov	al, 'X'
1:	out	0xe9, al
	add	rbx, 64
	jmp	next
done:
	mov	al, '>'
	out	0xe9, al
	mov	dx, 0x8900
	mov	rsi, offset off
	mov	ecx, 8
	rep outsb
	hlt

off:	.ascii	"Shutdown"
packet:	.byte	16, 0, 127, 0		# 127 sectors
	.word	0, 0x1000		# to 1000:0000
	.quad	1			# from sector 1 on
	.balign	8
gdt:	.quad	0, 0x00209a0000000000, 0x0000920000000000
gdtr:	.word	gdtr - gdt - 1
	.long	gdt

	.org	510
	.word	0xaa55
